"""One run of a script: its device, its folder, its epochs, its results."""

import contextlib
import json
import math
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from common import files
from common.data.tensors import gather, shuffled_batches, stream_seed, to_float
from common.errors import UserError
from common.training import checkpoint, evaluation, parallel
from common.training.device import autocast, choose_device, compiled, faster_precision, set_up
from common.training.optimizer import Optimizer

# A resumed run may change these arguments; all others shape the result.
FREE_ARGUMENTS = {"epochs", "device", "precision", "compile", "data_dir", "images_dir", "run_dir", "resume", "faces"}

Loss = Callable[[nn.Module, Tensor], dict[str, Tensor]]
Augment = Callable[[Tensor], Tensor] | None


class Objective(nn.Module):
    """A model and its loss as one module, so that wrapping its forward pass wraps both."""

    def __init__(self, model: nn.Module, loss: Loss):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.loss(self.model, images)


class Run:
    """One run of a script, made by `start`: how it computes, and its finished epochs.

    script, args: the script's name and its arguments, which are never changed.
    device, precision: where it computes, and how: in "fp32" or "bf16", once `prepare` has returned.
    history: the finished epochs, a dict of numbers each. images: how many it trains on.
    data: a description of the images; a resumed run must see the same.
    """

    def __init__(self, script: str, args: Namespace, device: torch.device):
        self.script, self.args, self.device, self.precision = script, args, device, args.precision
        self.data, self.images = "", 0
        self.checkpoint = args.run_dir / "checkpoint.pt"
        self.resumed = checkpoint.load(self.checkpoint) if args.resume and self.checkpoint.exists() else None
        self.history: list[dict[str, float]] = self.resumed["history"] if self.resumed else []
        if args.resume and not self.resumed:
            print(f"{self.checkpoint} does not exist yet: starting at epoch 1", file=sys.stderr)

    @property
    def arguments(self) -> dict[str, object]:
        """The arguments that shape the result."""
        return {name: value for name, value in vars(self.args).items() if name not in FREE_ARGUMENTS}

    @property
    def progress(self) -> str:
        """What an interrupted run leaves behind, in words."""
        if not self.history:
            return "no epoch was finished"
        return f"{self.checkpoint} holds epoch {len(self.history)}, and --resume continues from it"

    def prepare(self, model: nn.Module, loss: Loss, trial: Tensor) -> Callable[[Tensor], dict[str, Tensor]]:
        """A function of a batch in [0, 1] that gives the terms of `loss(model, batch)`, (B,) each, to train on.

        It computes in the run's precision and, if the run asks for it, compiled and on several devices. With
        --precision auto, a trial on some images (B, C, H, W) uint8 chooses, unless a checkpoint is resumed: then its
        precision is kept, so that the run ends with the same weights as an unbroken one. Raises UserError if the
        processes don't see the same checkpoint.
        """
        parallel.let_others_start()
        epochs = parallel.gathered(self.resumed["epoch"] if self.resumed else 0)
        if len(set(epochs)) > 1:
            raise UserError(f"the processes see checkpoints of epochs {min(epochs)} to {max(epochs)} in "
                            f"{self.args.run_dir}: put it on a file system that all machines share")  # fmt: skip
        objective = Objective(model, loss).train()
        batch = to_float(trial.to(self.device))
        reason = "as requested"
        if self.precision == "auto" and self.resumed:
            self.precision, reason = self.resumed["precision"], "that of the checkpoint"
        elif self.precision == "auto":
            self.precision, reason = faster_precision(objective, batch, self.device)
            model.zero_grad()
        print(f"computing on {self.device.type} in {self.precision}: {reason}", flush=True)
        step: nn.Module = parallel.wrap(objective, self.device)
        if self.args.compile:
            step = compiled(step, batch, self.device, self.precision)

        def in_precision(batch: Tensor) -> dict[str, Tensor]:
            with autocast(self.device, self.precision):
                return step(batch)

        return in_precision

    def epochs(
        self, model: nn.Module, optimizer: Optimizer, images: Tensor, batch_size: int, augment: Augment = None
    ) -> Iterator["Epoch"]:
        """The remaining epochs, each an iterable of batches of `images` (N, C, H, W) uint8.

        A resumed run continues at its place in the learning-rate cycle, which is longer with more --epochs. Every epoch
        ends with a checkpoint, a line in metrics.jsonl and, without a progress bar, one on the console. `augment`
        changes a batch in [0, 1]. If torchrun started several processes, all but the first end here.

        Raises UserError if the processes outnumber a batch's images, the loss or the weights are no longer finite,
        or a checkpoint doesn't fit or can't be written.
        """
        count, total, processes = len(images), self.args.epochs, parallel.world()
        self.images = count
        if count // math.ceil(count / batch_size) < processes:
            raise UserError(f"{count} images in batches of {batch_size} are too few for {processes} processes: "
                            "start fewer, or raise --batch-size or --limit")  # fmt: skip
        self._restore(model, optimizer)
        done = len(self.history)
        if done < total:
            size, peak = min(count, batch_size), optimizer.peak
            print(f"training images: {count:,}; batch size {size}, peak learning rate {peak:.2g}", flush=True)
        hidden = None if parallel.rank() == 0 else True  # None: unless the output is a terminal
        with tqdm(total=total * count, initial=done * count, unit=" images", unit_scale=True, disable=hidden) as bar:
            for number in range(done, total):
                model.train()
                epoch = Epoch(self, number, model, optimizer, images, batch_size, augment, bar)
                yield epoch
                line = {"epoch": number + 1, **epoch.means, **epoch.speed}
                if parallel.rank() == 0:
                    self._save(model, optimizer, [*self.history, line])
                self.history.append(line)
                if bar.disable:
                    numbers = "  ".join(f"{name} {value:.4g}" for name, value in epoch.means.items())
                    left = (total - number - 1) * line["seconds"]
                    print(f"epoch {number + 1}/{total}  {numbers}  ({left:,.0f} s left)", flush=True)
        parallel.part()

    def _restore(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Continue from the checkpoint, if there is one."""
        if not (state := self.resumed):
            return
        checkpoint.check_same_run(state, self.script, self.arguments, self.data, self.checkpoint)
        if state["epoch"] > self.args.epochs:
            raise UserError(f"{self.checkpoint} has {state['epoch']} epochs, more than --epochs {self.args.epochs}: "
                            "raise --epochs, or choose another --run-dir")  # fmt: skip
        try:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{self.checkpoint} doesn't fit this version of the model: train again") from error

    def _save(self, model: nn.Module, optimizer: Optimizer, history: list[dict]) -> None:
        state = {name: getattr(self, name) for name in ("script", "arguments", "data", "precision")}
        state |= {"epoch": len(history), "history": history}
        state |= {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        lines = "".join(json.dumps(line) + "\n" for line in history)
        (self.args.run_dir / "results.json").unlink(missing_ok=True)  # those of an earlier model
        # The checkpoint is written last: a run never resumes from one whose metrics are missing.
        files.write_atomically(self.args.run_dir / "metrics.jsonl", lines.encode())
        checkpoint.save(self.checkpoint, state)

    def batched(self, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """`function` of any number of images or latent vectors; see `evaluation.batched`."""
        return evaluation.batched(function, self.device)

    def write_results(self, dataset: str, test: dict[str, float]) -> None:
        """Write RUN_DIR/results.json: the run, its machine, its seconds, and the `test` scores, all of them finite."""
        if not all(map(math.isfinite, test.values())):
            raise UserError(f"the model's test scores are not finite: train again with a lower --lr ({test})")
        epochs, seconds = len(self.history), sum(line["seconds"] for line in self.history)
        results = {
            "script": self.script,
            "dataset": dataset,
            "train_images": self.images,
            "epochs": epochs,
            "seed": self.args.seed,
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else self.device.type,
            "precision": self.precision,
            "torch": torch.__version__,
            "seconds": round(seconds, 2),
            "images_per_second": round(self.images * epochs / seconds),
            "test": test,
        }
        files.write_json(self.args.run_dir / "results.json", results)
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in test.items())
        print(f"trained in {seconds:.1f} s; test {numbers}", flush=True)


@dataclass
class Epoch:
    """One pass over the images in its own order: iterate over it for batches on the device, in [0, 1].

    `last`: whether it is the run's final one. `means`: at its end, the mean over images of each term given to `mean`.
    """

    run: Run
    number: int
    model: nn.Module
    optimizer: Optimizer
    images: Tensor
    batch_size: int
    augment: Augment
    bar: tqdm

    def __post_init__(self) -> None:
        self.size = 0  # of the current batch, over all processes
        self.last = self.number + 1 == self.run.args.epochs
        self.steps, self.step = math.ceil(len(self.images) / self.batch_size), 0
        self.losses = torch.zeros(self.steps, device=self.run.device)
        self.sums: dict[str, Tensor] = {}
        self.means, self.speed = {}, {}

    def __iter__(self) -> Iterator[Tensor]:
        seed, epochs, count = self.run.args.seed, self.run.args.epochs, len(self.images)
        began, shown = time.perf_counter(), 0.0
        torch.manual_seed(stream_seed(seed, "noise", self.number, parallel.rank()))
        order = shuffled_batches(count, self.batch_size, stream_seed(seed, "order", self.number), self.images.device)
        for self.step, index in enumerate(order):
            self.optimizer.set_progress((self.number * self.steps + self.step + 0.5) / (epochs * self.steps))
            self.size = len(index)
            batch = to_float(gather(self.images, parallel.share(index)).to(self.run.device))
            yield batch if self.augment is None else self.augment(batch)
            self.bar.update(self.size)
            # Reading a loss makes the host wait for the device, so it is read twice a second, not in every step.
            if time.perf_counter() - shown > 0.5:
                shown = time.perf_counter()
                self._check_finite()
                self.bar.set_postfix_str(f"epoch {self.number + 1}/{epochs}, loss {self.losses[self.step].item():.4g}")
        self._check_finite(weights=True)
        self.means = {name: (parallel.total(value) / count).item() for name, value in self.sums.items()}
        seconds = time.perf_counter() - began
        rate = round(count / seconds)
        self.speed = {"lr": self.optimizer.lr, "seconds": round(seconds, 3), "images_per_second": rate}

    def mean(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """The mean over the batch of each of the `terms` (B,), which also counts for the epoch's means.

        With several processes, the mean of their gradients is the gradient of the mean over the whole batch.
        """
        means = {}
        for name, values in terms.items():
            value = values.sum()
            self.sums[name] = self.sums.get(name, 0) + value.detach()
            means[name] = value * (parallel.world() / self.size)
        self.losses[self.step] = means["loss"].detach()
        return means

    def validate(self, loss: Loss, images: Tensor, names: tuple[str, ...]) -> None:
        """Add the means of these terms of `loss(model, batch)` over `images` to the epoch's, as "valid_NAME"."""
        if parallel.rank() == 0:
            scores = evaluation.evaluate(self.model, loss, images, self.run.device)
            self.means |= {f"valid_{name}": scores[name] for name in names}

    def _check_finite(self, weights: bool = False) -> None:
        finite = self.losses.isfinite()
        if finite.all() and not (weights and not all(part.isfinite().all() for part in self.model.parameters())):
            return
        step = self.steps if finite.all() else int((~finite).nonzero()[0]) + 1
        raise UserError(
            f"the loss is no longer finite at epoch {self.number + 1}, step {step}: choose a lower --lr "
            f"(it was {self.optimizer.peak:.2g}) or --precision fp32; {self.run.progress}"
        )


@contextlib.contextmanager
def start(script: str, args: Namespace) -> Iterator[Run]:
    """Prepare a run, and lock its folder while it lasts.

    Raises UserError if the device is absent, a folder can't be written, the checkpoint to resume from can't be
    read, or another run holds the folder.
    """
    device = parallel.local_device(choose_device(args.device))
    files.check_writable(args.images_dir)
    set_up(device)
    torch.manual_seed(args.seed)
    with contextlib.ExitStack() as held:
        held.enter_context(parallel.joined(device))
        if parallel.rank() == 0:
            held.enter_context(checkpoint.run_folder(args.run_dir))
        run = Run(script, args, device)
        try:
            yield run
        except KeyboardInterrupt as error:
            raise type(error)(run.progress) from error
