"""One training loop and one evaluation for all three scripts; the device, the precision, the run's folder."""

import contextlib
import json
import math
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from common import files
from common.training import checkpoint
from common.training import parallel
from common.data.tensors import gather, shuffled_batches, stream_seed, to_float
from common.errors import UserError
from common.training.optimizer import Muon

Loss = Callable[[nn.Module, Tensor], dict[str, Tensor]]

EVALUATION_SEED = 2014  # evaluation draws the same noise whatever the run's seed
EVALUATION_BATCH = 500
MUON_LR = 3  # times AdamW's; on digits, between 1.5 and 5 makes no difference
# May change between a run and its resumption; every other argument shapes the result.
FREE_ARGUMENTS = {"epochs", "device", "precision", "compile", "data_dir", "images_dir", "run_dir", "resume"}


@dataclass(frozen=True)
class Run:
    """One run of a script: its arguments, and where and how it computes."""

    script: str
    args: Namespace
    device: torch.device
    precision: str

    @property
    def checkpoint(self) -> Path:
        return self.args.run_dir / "checkpoint.pt"

    @property
    def arguments(self) -> dict[str, object]:
        """The arguments that shape the result, as plain values."""
        chosen = {name: value for name, value in vars(self.args).items() if name not in FREE_ARGUMENTS}
        return {name: str(value) if isinstance(value, Path) else value for name, value in chosen.items()}

    def autocast(self) -> torch.autocast:
        return autocast(self.device, self.precision)


@contextlib.contextmanager
def start(script: str, args: Namespace) -> Iterator[Run]:
    """Prepare a run, and hold its folder while it lasts.

    Raises UserError where the device is absent, a folder can't be written, or another run holds the folder.
    """
    device = parallel.local_device(choose_device(args.device))
    precision = choose_precision(args.precision, device)
    files.check_writable(args.images_dir)
    torch.set_flush_denormal(True)  # numbers below 1e-38 slow a CPU down and change nothing
    keep_freed_memory()
    torch.manual_seed(args.seed)
    with contextlib.ExitStack() as held:
        held.enter_context(parallel.joined(device))
        if parallel.rank() == 0:
            held.enter_context(checkpoint.run_folder(args.run_dir))
        yield Run(script, args, device, precision)


def keep_freed_memory() -> None:
    """Let the process keep the memory that one step frees for the next one.

    glibc keeps at most twice its largest freed block, and else the system gives and clears it anew in every step: 5%
    of a step of 2048 digits. Having freed this block, it keeps 60 MB.
    """
    torch.empty(30 * 2**20, dtype=torch.uint8)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Where `precision` is "bf16", what is computed in this context is computed in it, as far as it is safe."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def choose_device(name: str) -> torch.device:
    """`auto` is the accelerator that this PyTorch sees, else the CPU. Raises UserError for an absent one."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        return accelerator or torch.device("cpu")
    if name != "cpu" and (accelerator is None or accelerator.type != name):
        raise UserError(f"--device {name}: PyTorch {torch.__version__} sees none here; use --device auto or cpu")
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> str:
    """`auto` is bf16 where the hardware multiplies it natively (else it is emulated, and slower), else fp32."""
    if name != "auto":
        return name
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        native = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
    else:
        native = False
    return "bf16" if native else "fp32"


def learning_rate(progress: float, warmup: float = 0.2) -> float:
    """One cycle (Smith & Topin 2018): linear up to 1, the peak, then a cosine down to 0; `progress` in [0, 1]."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


class Objective(nn.Module):
    """A model and its loss as one module, so that what wraps a forward pass wraps both."""

    def __init__(self, model: nn.Module, loss: Loss):
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.loss(self.model, images)


def compiled(module: nn.Module, device: torch.device) -> nn.Module:
    """`module` compiled at its first call; as it is where there is no compiler that torch.compile can use."""
    try:
        torch.compile(torch.neg)(torch.ones(1, device=device))
    except Exception as error:  # what it misses raises many kinds
        reason = str(error).strip().splitlines()[0]
        print(f"--compile: torch.compile doesn't work here ({reason}), going on without", file=sys.stderr)
        return module
    return torch.compile(module)


def make_optimizers(
    model: nn.Module, hidden: Sequence[nn.Parameter], lr: float, precision: str
) -> list[torch.optim.Optimizer]:
    """AdamW (Loshchilov & Hutter 2019), and Muon for the `hidden` weights, if any: on digits it needs about half of
    AdamW's epochs, but it doesn't suit layers at the pixels, nor vectors."""
    others = [parameter for parameter in model.parameters() if all(parameter is not weight for weight in hidden)]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, lr=lr, fused=True)]
    if hidden:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        optimizers.append(Muon(hidden, lr=MUON_LR * lr, dtype=dtype))
    return optimizers


def fit(
    model: nn.Module,
    loss: Loss,
    images: Tensor,
    run: Run,
    hidden: Sequence[nn.Parameter] = (),
    augment: Callable[[Tensor], Tensor] | None = None,
    validate: Callable[[dict[str, float]], dict[str, float]] | None = None,
) -> list[dict[str, float]]:
    """Train `model` in place on `images` (N, C, H, W) uint8, and return its history, a dict an epoch.

    `loss(model, batch)` gives terms of shape (B,), one value an image; the mean of its "loss" is minimised,
    the means of all are kept. `hidden` are the weights that Muon trains. `augment` changes a batch in
    [0, 1]; `validate` adds to the numbers of each epoch. The learning rate depends on the finished share of
    --epochs: resumed with more epochs, the same run goes on at the place of the longer cycle.

    Every epoch ends with a checkpoint. Raises UserError when there are more processes than images in a batch,
    when the loss or the weights are no longer finite, when the checkpoint to resume from doesn't fit, or when
    one can't be written.
    """
    args, count = run.args, len(images)
    steps = math.ceil(count / args.batch_size)
    if count // steps < parallel.world():
        raise UserError(f"{count} images in batches of {args.batch_size} are too few for {parallel.world()} processes")
    parallel.let_others_start()
    optimizers = make_optimizers(model, hidden, args.lr, run.precision)
    peaks = [optimizer.defaults["lr"] for optimizer in optimizers]
    history = _resume(model, optimizers, run) if args.resume else []
    objective = parallel.wrap(Objective(model, loss), run.device)
    if args.compile:
        objective = compiled(objective, run.device)
    first, processes = parallel.rank() == 0, parallel.world()
    progress = tqdm(
        total=args.epochs * count,
        initial=len(history) * count,
        unit=" images",
        unit_scale=True,
        disable=None if first else True,  # None: where the output is no terminal
    )
    model.train()
    with progress as bar, _keep_finished_epochs(history, run):
        for epoch in range(len(history), args.epochs):
            began, shown = time.perf_counter(), 0.0
            torch.manual_seed(stream_seed(args.seed, "noise", epoch, parallel.rank()))
            order = shuffled_batches(count, args.batch_size, stream_seed(args.seed, "order", epoch), images.device)
            losses = torch.zeros(steps, device=run.device)
            sums: dict[str, Tensor] = {}
            for step, index in enumerate(order):
                rate = learning_rate((epoch * steps + step + 0.5) / (args.epochs * steps))
                for optimizer, peak in zip(optimizers, peaks, strict=True):
                    optimizer.param_groups[0]["lr"] = rate * peak
                batch = to_float(gather(images, parallel.share(index)).to(run.device))
                with run.autocast():
                    terms = objective(batch if augment is None else augment(batch))
                # The gradients are averaged over the processes, so their losses must be as large as the whole.
                mean = terms["loss"].sum() * (processes / len(index))
                model.zero_grad()
                mean.backward()
                for optimizer in optimizers:
                    optimizer.step()
                losses[step] = mean.detach()
                for name, values in terms.items():
                    sums[name] = sums.get(name, 0) + values.detach().sum()
                bar.update(len(index))
                # Reading a loss makes the host wait for the device: twice a second, not every step.
                if time.perf_counter() - shown > 0.5:
                    shown = time.perf_counter()
                    _check_finite(losses[: step + 1], epoch, run)
                    bar.set_postfix_str(f"epoch {epoch + 1}/{args.epochs}, loss {losses[step].item():.4g}")
            _check_finite(losses, epoch, run, model)
            metrics = {name: (parallel.total(value) / count).item() for name, value in sums.items()}
            seconds = time.perf_counter() - began
            if not first:
                history.append({})
                continue
            if validate is not None:
                metrics |= validate(metrics)
                model.train()
            speed = {"lr": rate * args.lr, "seconds": round(seconds, 3), "images_per_second": round(count / seconds)}
            line = {"epoch": epoch + 1, **metrics, **speed}
            _save(model, optimizers, [*history, line], run)
            history.append(line)
            if bar.disable:
                numbers = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
                print(f"epoch {epoch + 1}/{args.epochs}  {numbers}  {count / seconds:,.0f} images/s", flush=True)
    if not first:
        sys.exit(0)  # the first process measures and draws
    return history


def on_device(images: Tensor, device: torch.device) -> Tensor:
    """`images` on `device` for the whole run; on the host, in its memory or mapped file, where they don't fit."""
    if device.type == "cuda" and images.nbytes > torch.cuda.mem_get_info()[0] / 2:
        return images
    return images.to(device)


def _check_finite(losses: Tensor, epoch: int, run: Run, model: nn.Module | None = None) -> None:
    finite = losses.isfinite()
    if not finite.all():
        step = int((~finite).nonzero()[0]) + 1
    elif model is not None and not all(parameter.isfinite().all() for parameter in model.parameters()):
        step = len(losses)
    else:
        return
    kept = f"{run.checkpoint} keeps epoch {epoch}" if epoch else "no epoch was finished"
    raise UserError(
        f"the loss is no longer finite at epoch {epoch + 1}, step {step}: choose a lower --lr (it was {run.args.lr}) "
        f"or --precision fp32; {kept}"
    )


@contextlib.contextmanager
def _keep_finished_epochs(history: list, run: Run) -> Iterator[None]:
    """Say what an interruption left behind."""
    try:
        yield
    except KeyboardInterrupt as error:
        kept = (
            f"epoch {len(history)} is in {run.checkpoint}, --resume goes on from it" if history else "nothing to keep"
        )
        raise type(error)(f"in epoch {len(history) + 1}; {kept}") from error


def _save(model: nn.Module, optimizers: list[torch.optim.Optimizer], history: list[dict], run: Run) -> None:
    lines = "".join(json.dumps(line) + "\n" for line in history)
    state = {
        "script": run.script,
        "arguments": run.arguments,
        "epoch": len(history),
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "history": history,
    }
    # The checkpoint last: what a run resumes from never lacks its metrics.
    files.write_atomically(run.args.run_dir / "metrics.jsonl", lines.encode())
    checkpoint.save(run.checkpoint, state)


def _resume(model: nn.Module, optimizers: list[torch.optim.Optimizer], run: Run) -> list[dict]:
    """Load the run's checkpoint, if there is one, and return the history of its finished epochs."""
    if not run.checkpoint.exists():
        print(f"{run.checkpoint} is not there yet: starting at epoch 1", file=sys.stderr)
        return []
    state = checkpoint.load(run.checkpoint)
    checkpoint.check_same_run(state, run.script, run.arguments, run.checkpoint)
    if state["epoch"] > run.args.epochs:
        raise UserError(f"{run.checkpoint} has {state['epoch']} epochs, more than --epochs {run.args.epochs}")
    try:
        model.load_state_dict(state["model"])
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{run.checkpoint} doesn't fit this version of the model: train again") from error
    return state["history"]


@torch.inference_mode()
def evaluate(model: nn.Module, loss: Loss, images: Tensor, device: torch.device) -> dict[str, float]:
    """The mean of each term of `loss` over `images` (N, C, H, W) uint8, in fp32, with noise of a fixed seed."""
    torch.manual_seed(EVALUATION_SEED)
    model.eval()
    sums: dict[str, float] = {}
    for batch in images.split(EVALUATION_BATCH):
        for name, values in loss(model, to_float(batch.to(device))).items():
            sums[name] = sums.get(name, 0) + values.cpu().double().sum().item()
    return {name: value / len(images) for name, value in sums.items()}


@torch.inference_mode()
def compute(function: Callable[[Tensor], Tensor], inputs: Tensor, device: torch.device) -> Tensor:
    """`function` of all `inputs`, in batches, on the CPU in fp32; uint8 images are brought to [0, 1] first."""
    outputs = []
    for batch in inputs.split(EVALUATION_BATCH):
        batch = batch.to(device)
        outputs.append(function(to_float(batch) if batch.dtype == torch.uint8 else batch).float().cpu())
    return torch.cat(outputs)


def write_results(run: Run, dataset: str, train_images: int, history: list[dict], test: dict[str, float]) -> None:
    """Write RUN_DIR/results.json: what was run, on what, how long its epochs took, and the test numbers."""
    seconds = sum(line["seconds"] for line in history)
    results = {
        "script": run.script,
        "dataset": dataset,
        "train_images": train_images,
        "epochs": len(history),
        "seed": run.args.seed,
        "device": torch.cuda.get_device_name() if run.device.type == "cuda" else run.device.type,
        "precision": run.precision,
        "torch": torch.__version__,
        "seconds": round(seconds, 2),
        "images_per_second": round(train_images * len(history) / seconds),
        "test": test,
    }
    files.write_json(run.args.run_dir / "results.json", results)
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in test.items())
    print(
        f"{run.script}: {len(history)} epochs in {seconds:.1f} s ({run.device.type}, {run.precision}); test {numbers}"
    )
