"""One run of a script: its device, its folder, its epochs, its results."""

import contextlib
import io
import json
import math
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from common import files
from common.data.batches import gather, shuffled_batches, stream_seed, to_float
from common.errors import UserError
from common.training import checkpoint, device, evaluation, processes

# A resumed run may change these arguments; all others shape the result.
FREE_ARGUMENTS = {"epochs", "device", "precision", "data_dir", "images_dir", "run_dir", "resume", "faces", "animate"}


class Run:
    """One run of a script, made by `start`: how it computes, and its finished epochs.

    script, args: the script's name and its arguments, which are never changed.
    device, precision: where it computes, and how: in "fp32" or "bf16".
    is_first_process: whether this process writes and draws; if torchrun started several, only one of them does.
    history: the finished epochs, a dict of numbers each.
    """

    def __init__(self, script: str, args: Namespace, where: torch.device):
        self.script, self.args, self.device = script, args, where
        self.is_first_process = processes.rank() == 0
        self.epoch, self.pace = None, 0.0  # the seconds of the first epoch here; infinite after a warning
        self.checkpoint = args.run_dir / "checkpoint.pt"
        self.resumed = checkpoint.load(self.checkpoint) if args.resume and self.checkpoint.exists() else None
        self.history: list[dict[str, float]] = self.resumed["history"] if self.resumed else []
        self.images = self.resumed["images"] if self.resumed else 0  # that an epoch trains on
        if args.resume and not self.resumed:
            print(f"{self.checkpoint} does not exist yet: starting at epoch 1", file=sys.stderr)
        precision, threads = args.precision, device.thread_counts()
        if self.resumed and self.resumed.get("device", where.type) == where.type:  # to end as an unbroken run would
            precision = self.resumed["precision"] if precision == "auto" else precision
            threads = threads if len(threads) == 1 else [min(self.resumed["threads"], threads[0])]
        precision, threads = processes.first((precision, threads))
        size = (args.batch_size or device.TRIAL_SIZE) // processes.world()
        self.precision, self.threads, reason = device.choose_arithmetic(where, precision, threads, size)
        torch.set_num_threads(self.threads)
        reason = reason if precision == args.precision else "as in the checkpoint"
        print(f"computing on {where.type} in {self.precision}, threads: {self.threads}; {reason}", flush=True)
        torch.manual_seed(args.seed)

    @property
    def progress(self) -> str:
        """What an interrupted run leaves behind, in words."""
        kept = f"{self.checkpoint} holds epoch {len(self.history)}, and --resume continues from it"
        return kept if self.history else "no epoch was finished"

    def autocast(self) -> torch.autocast:
        """A context for the loss, in which operations run in bf16 where that is safe, if that is the precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def epochs(self, model: nn.Module, optimizer: torch.optim.Optimizer, data: str = "") -> Iterator["Epoch"]:
        """The epochs to train, after those of a resumed run, which must have had images with the same name, `data`.

        Every epoch begins with model.train(), and ends with a checkpoint, a line in metrics.jsonl and, without a
        progress bar, one on the console.
        Raises UserError if the weights are no longer finite, or a checkpoint doesn't fit or can't be written.
        """
        if len(set(processes.gathered((len(self.history), data)))) > 1:
            folders = f"{self.args.run_dir} and {self.args.data_dir}"
            raise UserError(f"the processes see different epochs or data: put {folders} where all machines see them")
        arguments = {name: value for name, value in vars(self.args).items() if name not in FREE_ARGUMENTS}
        self.state = {"script": self.script, "arguments": arguments, "data": data}
        if state := self.resumed:
            for name, value in (self.state | self.state["arguments"]).items():
                if name != "arguments" and (before := (state | state["arguments"]).get(name)) != value:
                    advice = "repeat that, or choose another --run-dir"
                    raise UserError(f"{self.checkpoint} was trained with {name} {before}, not {value}: {advice}")
            if (done := len(self.history)) > self.args.epochs:
                raise UserError(f"{self.checkpoint} has {done} epochs: raise --epochs, or choose another --run-dir")
            try:
                model.load_state_dict(state["model"])
                optimizer.load_state_dict(state["optimizer"])
            except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
                raise UserError(f"{self.checkpoint} doesn't fit this version of the model: train again") from error
        with tqdm(unit=" images", unit_scale=True, disable=None if self.is_first_process else True) as bar:
            for number in range(len(self.history), self.args.epochs):
                model.train()
                self.epoch = Epoch(self, number, model, optimizer, bar)
                yield self.epoch
                self._finish_epoch()
        processes.part()

    def _finish_epoch(self) -> None:
        """Write the checkpoint and the metrics of the current epoch, if it has taken a step."""
        epoch, self.epoch = self.epoch, None
        if epoch is None or not epoch.images:
            return
        epoch.check_finite(weights=True)
        seconds, means = time.perf_counter() - epoch.began, epoch.means
        speed = {"seconds": round(seconds, 3), "images_per_second": round(epoch.images / seconds)}
        line = {"epoch": epoch.number + 1, **means, **speed}
        self.images, history = epoch.images, [*self.history, line]
        if self.is_first_process:
            state = self.state | {"history": history, "images": epoch.images}
            state |= {"device": self.device.type, "precision": self.precision, "threads": self.threads}
            state |= {"model": epoch.model.state_dict(), "optimizer": epoch.optimizer.state_dict()}
            (self.args.run_dir / "results.json").unlink(missing_ok=True)  # those of an earlier model
            lines = "".join(json.dumps(line) + "\n" for line in history)
            # The checkpoint is written last: a run never resumes from one whose metrics are missing.
            files.write_atomically(self.args.run_dir / "metrics.jsonl", lines.encode())
            checkpoint.save(self.checkpoint, state)
        self.history = history
        if epoch.bar.disable:
            numbers = "  ".join(f"{name} {value:.4g}" for name, value in means.items())
            left = (self.args.epochs - epoch.number - 1) * seconds
            print(f"epoch {epoch.number + 1}/{self.args.epochs}  {numbers}  ({left:,.0f} s left)", flush=True)
        self.pace = self.pace or seconds
        if seconds > max(5, 3 * self.pace):
            times, self.pace = seconds / self.pace, math.inf
            advice = "stop the program that uses the same cores, or run both with OMP_NUM_THREADS=1"
            print(f"epoch {epoch.number + 1} took {times:.0f} times as long as the first: {advice}", file=sys.stderr)

    def write_results(self, dataset: str, test: dict[str, float], latent: Tensor, labels: Tensor | None = None) -> None:
        """Write results.json, with the finite scores `test`, and latent.npz, with the test images' codes (N, D)."""
        self._finish_epoch()  # of a training loop that was left early
        if not all(map(math.isfinite, test.values())):
            raise UserError(f"the model's test scores are not finite: train again with a lower --lr ({test})")
        if "kl" in test and (test["kl"] < 1 or test["active_units"] == 0):
            found = f"to the prior (KL {test['kl']:.2f} nats, {test['active_units']} active units)"
            advice = "its codes carry no information; lower --beta or --lr"
            print(f"warning: the posterior has collapsed {found}: {advice}", file=sys.stderr)
        seconds = sum(line["seconds"] for line in self.history)
        device_name = torch.cuda.get_device_name() if self.device.type == "cuda" else self.device.type
        results = {"script": self.script, "dataset": dataset, "train_images": self.images, "epochs": len(self.history)}
        results |= {"seed": self.args.seed, "device": device_name, "precision": self.precision}
        results |= {"torch": torch.__version__, "seconds": round(seconds, 2)}
        results |= {"images_per_second": round(self.images * len(self.history) / seconds), "test": test}
        codes = io.BytesIO()
        np.savez_compressed(codes, latent=latent.numpy(), **({} if labels is None else {"labels": labels.numpy()}))
        files.write_atomically(self.args.run_dir / "latent.npz", codes.getvalue())
        files.write_json(self.args.run_dir / "results.json", results)
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in test.items())
        print(f"trained in {seconds:.1f} s; test {numbers}", flush=True)


class Epoch:
    """One pass over the images. number: of the finished epochs before it; last: whether it is the run's final one."""

    def __init__(self, run: Run, number: int, model: nn.Module, optimizer: torch.optim.Optimizer, bar: tqdm):
        self.run, self.number, self.model, self.optimizer, self.bar = run, number, model, optimizer, bar
        self.last = number + 1 == run.args.epochs
        self.began, self.shown = time.perf_counter(), 0.0
        self.images, self.step, self.steps = 0, 0, 1
        self.sums, self.counts, self.valid = {}, {}, {}  # by the names of the terms

    @property
    def progress(self) -> float:
        """The share of the whole run that lies before the middle of the current step, in [0, 1]."""
        return (self.number + (self.step + 0.5) / self.steps) / self.run.args.epochs

    def batches(self, images: Tensor, batch_size: int) -> Iterator[Tensor]:
        """Shuffled uint8 `images` (N, C, H, W) as batches in [0, 1]. Raises UserError if processes outnumber one."""
        count, seed, world = len(images), self.run.args.seed, processes.world()
        if count // math.ceil(count / batch_size) < world:
            advice = "start fewer, or raise --batch-size or --limit"
            raise UserError(f"{count} images in batches of {batch_size} are too few for {world} processes: {advice}")
        torch.manual_seed(stream_seed(seed, "noise", self.number, processes.rank()))
        how = (batch_size, stream_seed(seed, "order", self.number), images.device, processes.rank(), world)
        order = [*shuffled_batches(count, *how)]
        self.images, self.steps = self.images + count, len(order)
        self.bar.total = count * self.run.args.epochs
        self.bar.update(count * self.number - self.bar.n)
        layout = device.memory_format(self.run.device)
        for self.step, index in enumerate(order):
            yield to_float(gather(images, index).to(self.run.device, memory_format=layout))
            self.bar.update(len(index) * world)

    def record(self, terms: dict[str, Tensor]) -> None:
        """Count the terms of a batch, (B,) each, towards the epoch's means. Raises UserError if they aren't finite."""
        for name, values in terms.items():
            self.sums[name] = self.sums.get(name, 0) + values.detach().sum()
            self.counts[name] = self.counts.get(name, 0) + values.numel()
        # Reading a number makes the host wait for the device, so that is done twice a second, not in every step.
        if time.perf_counter() - self.shown > 0.5:
            self.shown = time.perf_counter()
            self.check_finite()
            means = ", ".join(f"{name} {self.sums[name].item() / self.counts[name]:.4g}" for name in self.sums)
            self.bar.set_postfix_str(f"epoch {self.number + 1}/{self.run.args.epochs}, {means}")

    @property
    def means(self) -> dict[str, float]:
        """The means so far of the recorded terms, over images and processes; those of `validate` are valid_NAME."""
        if not self.sums:
            return dict(self.valid)
        sums = torch.stack([*self.sums.values()]).cpu().double()
        sums, counts = processes.total(torch.stack([sums, torch.tensor([*self.counts.values()]).double()]))
        return dict(zip(self.sums, (sums / counts).tolist(), strict=True)) | self.valid

    def validate(self, loss: Callable, images: Tensor, **options: object) -> None:
        """Add the means of the terms of `loss(model, batch, **options)` over `images` to the epoch's means."""
        if self.run.is_first_process:
            terms = evaluation.evaluate(self.model, loss, images, **options)
            self.valid = {f"valid_{name}": value for name, value in terms.items() if name != "loss"}

    def check_finite(self, weights: bool = False) -> None:
        """Raise UserError if a recorded term, or one of the weights, is not finite."""
        values = [*self.sums.values(), *(self.model.parameters() if weights else ())]
        if not all(value.isfinite().all() for value in values):
            place = f"epoch {self.number + 1}, by step {self.step + 1}"
            advice = f"choose a lower --lr or --precision fp32; {self.run.progress}"
            raise UserError(f"the loss is no longer finite at {place}: {advice}")


@contextlib.contextmanager
def start(script: str, args: Namespace) -> Iterator[Run]:
    """Prepare a run, and lock its folder while it lasts.

    Raises UserError if the device is absent, a folder can't be written or is another run's, or the checkpoint is bad.
    """
    where = device.choose_device(args.device)
    files.check_writable(args.images_dir)
    device.set_up(where)
    with contextlib.ExitStack() as held:
        if processes.launched():
            held.enter_context(processes.joined(where))
        if processes.rank() == 0:
            held.enter_context(files.locked_folder(args.run_dir))
        held.callback(torch.set_num_threads, torch.get_num_threads())  # so that a notebook's next run may use all
        run = Run(script, args, where)
        try:
            yield run
            if processes.world() > 1:  # if a loop was left early, `write_results` of the first one waits for the others
                run._finish_epoch()
        except KeyboardInterrupt as error:
            error.args = (run.progress,)
            raise
