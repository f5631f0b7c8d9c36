"""What both measuring programs share: flags, models trained by the scripts' own `fit`, a feature network, tables."""

import argparse
import contextlib
import itertools
import os
import platform
import re
import statistics
import sys
import tempfile
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from unittest import mock

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

sys.path.insert(0, str(Path(__file__).parents[2]))  # so that the programs find the project from any folder

from common import cli, files, training  # noqa: E402
from common.data.batches import to_float  # noqa: E402
from common.data.celeba import Faces  # noqa: E402
from common.data.digits import Digits  # noqa: E402
from common.errors import UserError  # noqa: E402
from common.training import checkpoint, device  # noqa: E402

QUICK = 200  # images

Data = Digits | Faces
Patches = Sequence[tuple[object, str, object]]  # of an object, a name in it, and what stands there instead


def parser(program: str, about: str, commands: Sequence[str]) -> cli.Parser:
    """The flags of both programs."""
    form = argparse.ArgumentDefaultsHelpFormatter
    flags = cli.Parser(f"python tests/measure/{program}", description=about.splitlines()[0], formatter_class=form)
    add = flags.add_argument
    add("command", choices=commands, help="what to measure")
    add("--epochs", type=cli.positive_int, help="of every model that is trained here")
    add("--seeds", type=cli.positive_int, default=3, metavar="N", help="models of each kind")
    add("--quick", action="store_true", help="a try with a few images, for one epoch, in a folder of its own")
    add("--faces", metavar="PATH", help="a zip or folder of pictures, or the word drawn, as in vanilla_vae_celeba.py")
    add("--features", type=Path, metavar="FILE", help="a TorchScript file to compare faces by: a network from "
        "(N, 3, 64, 64) in [0, 1] to (N, F); None: a classifier of their attributes, trained here")  # fmt: skip
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="auto: the accelerator, if any")
    add("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="auto: the faster one, by a short trial")
    add("--data-dir", type=cli.folder, default=Path("data"), help="folder of the data sets")
    add("--images-dir", type=cli.folder, default=Path("images"), help="folder for the figures")
    add("--results", type=cli.folder, default=Path("runs/measure"), help="folder of models and results: what is there "
        "isn't measured again, so remove it after a change of the code")  # fmt: skip
    return flags


def prepare(args: Namespace) -> None:
    """Choose what is the same for all models: device, precision, number of threads, how many images."""
    args.limit = QUICK if args.quick else None
    if args.quick:
        args.seeds, args.epochs, args.results = 1, 1, args.results / "quick"
    for folder in (args.images_dir, args.results):
        files.check_writable(folder)
    args.where = device.choose_device(args.device)
    device.set_up(args.where)
    args.precision, threads, _ = device.choose_arithmetic(args.where, args.precision, device.thread_counts())
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # so that no model chooses again


def machine(args: Namespace) -> str:
    name = torch.cuda.get_device_name() if args.where.type == "cuda" else f"{torch.get_num_threads()} threads"
    return f"{args.where.type} ({name}, {platform.machine()}), PyTorch {torch.__version__}"


def patched(patches: Patches) -> contextlib.ExitStack:
    """Put other values in the place of some names, until the result, a context, is left."""
    held = contextlib.ExitStack()
    for patch in patches:
        held.enter_context(mock.patch.object(*patch))
    return held


@contextlib.contextmanager
def started(script: ModuleType, args: Namespace, **choices: object) -> Iterator[tuple[training.Run, Namespace]]:
    """A run of `script` in a folder of its own, and its arguments, with the flags `choices`; True: without a value."""
    flags = ["--device", args.device]
    for name, value in choices.items():
        flags += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        run_args = script.parse_args([*flags, "--run-dir", folder, "--images-dir", folder])
        # Nothing is chosen by the scores on valid faces, so training needn't wait for them.
        with mock.patch.object(training.Epoch, "validate"), training.start(script.SCRIPT, run_args) as run:
            yield run, run_args


def trained(script: ModuleType, data: Sequence[Data], args: Namespace, patches: Patches = (), **choices) -> nn.Module:
    """The model that the script's `fit` makes of `data` with the flags `choices`; it is kept in the results."""
    choices |= {"epochs": args.epochs, "precision": args.precision}
    words = [script.SCRIPT, *(f"other-{name}" for _, name, _ in patches), *(f"{k}-{v}" for k, v in choices.items())]
    path = args.results / "models" / f"{'_'.join([*words, slug(data[0])])}.pt"
    with patched(patches):
        if not path.exists():
            print(f"training {path.stem}", flush=True)
            with started(script, args, **choices) as (run, run_args):
                script.fit(run, run_args, *data)
                checkpoint.save(path, checkpoint.load(run.checkpoint) | {"optimizer": None})  # three times as large
        return script.load(path).to(args.where)


def slug(data: Data) -> str:
    return re.sub(r"\W+", "-", data.description)


def classifier(data: Data, args: Namespace) -> nn.Sequential:
    """A small convolutional classifier of digits, or of the attributes of faces, trained once for both programs.

    (N, C, S, S) in [0, 1] -> logits; without its last layer, -> features (N, 128). Raises UserError without labels.
    """
    targets = data.labels if isinstance(data, Digits) else data.attributes
    if targets is None:
        raise UserError(f"{data.name} has no attributes to train a classifier with: add their table, or --features")
    single, images, layers, where = targets.ndim == 1, data.images, [], args.where
    torch.manual_seed(0)
    for inputs, outputs in itertools.pairwise((images.shape[1], 32, 64, 128)):
        layers += [nn.Conv2d(inputs, outputs, 5, stride=2, padding=2), nn.BatchNorm2d(outputs), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128 * 4 * 4, 128), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(128, len(data.classes) if single else targets.shape[1])).to(where)
    path = args.results / "models" / f"classifier_{slug(data)}.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, map_location=where, weights_only=True))
        return model.eval()
    print(f"training {path.stem}", flush=True)
    optimizer, epochs = torch.optim.AdamW(model.parameters(), fused=True), 2 if single else 8
    cycle = OneCycleLR(optimizer, 2e-3, total_steps=epochs * -(-len(images) // 128))
    for index in itertools.chain.from_iterable(torch.randperm(len(images)).split(128) for _ in range(epochs)):
        shift, answer = torch.randint(-2, 3, (2,)).tolist(), targets[index].to(where)
        logits = model(to_float(images[index].to(where)).roll(shift, dims=(2, 3)))
        loss = F.cross_entropy(logits, answer) if single else F.binary_cross_entropy_with_logits(logits, answer.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cycle.step()
    checkpoint.save(path, model.state_dict())
    return model.eval()


def features(train: Data, test: Data, args: Namespace) -> tuple[Callable, str]:
    """What maps pictures to features (N, F) to compare them by, and what it is, in words."""
    if args.features and isinstance(train, Faces):
        network = torch.jit.load(args.features, map_location=args.where).eval()
        return training.batched(network, args.where), args.features.name
    model = classifier(train, args)
    logits = training.batched(model, args.where)(test.images)
    if isinstance(train, Digits):
        right, about = (logits.argmax(dim=1) == test.labels).double().mean().item(), "a classifier"
    else:
        shares = train.attributes.double().mean(dim=0)
        usual = ((shares > 0.5) == test.attributes).double().mean().item()
        right = ((logits > 0) == test.attributes).double().mean().item()
        about = f"a classifier of {len(shares)} attributes (always guessing the majority: {usual:.1%})"
    return training.batched(model[:-1], args.where), f"{about}, test accuracy {right:.1%}"


class Results:
    """Scores by model and seed; about: how they were made, for the headings of tables."""

    def __init__(self, about: str):
        self.about = about
        self.found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def add(self, model: str, scores: dict[str, float]) -> None:
        for score, value in scores.items():
            self.found[model][score].append(value)

    def table(self, title: str, models: Sequence[str], columns: dict[str, tuple[str, str]]) -> None:
        """Print a table in Markdown: means and standard deviations. columns: score -> its name and format."""
        print(f"\n**{title}; {self.about}**\n\n| | {' | '.join(name for name, _ in columns.values())} |")
        print("|---" * (len(columns) + 1) + "|")
        for model in models:
            cells = [model]
            for score, (_, form) in columns.items():
                values = self.found[model].get(score, [])
                cells.append(f"{statistics.mean(values):{form}}" if values else "")
                if len(set(values)) > 1:  # PCA has no spread
                    cells[-1] += f" ± {statistics.stdev(values):{form}}"
            print(f"| {' | '.join(cells)} |", flush=True)
