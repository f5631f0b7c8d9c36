"""Well-known recipes compared with ours: test scores over seconds of training.

    python tests/measure/recipes.py                        digits: a table, and images/recipes.png
    python tests/measure/recipes.py faces --faces PATH     faces (--faces as in vanilla_vae_celeba.py)
    python tests/measure/recipes.py --draw                 the table and the figure again, from earlier measurements

Each recipe is written from its published settings, trained on the same images as ours, and scored by the scripts' own
functions on the same test split. Ours is run as a user runs it, `python SCRIPT.py --epochs N`, once for each budget: N
is as many epochs as fit into a quarter of the recipe's time, a half, the whole, and twice that. Recipes and ours
alternate. Only training is timed: neither loading, scoring, the trial of the precision, nor `standardize`.

RUNS_DIR/measure/recipes.json keeps every run as soon as it ends, and runs in it are not repeated: remove the file to
measure again.
"""

import argparse
import functools
import itertools
import json
import math
import os
import platform
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from measure import claims  # noqa: E402
from measure.published import Batches, Recipe, keras, parametric_umap, plain, pytorch, pytorch_vae  # noqa: E402
from measure.recipes_report import BUDGETS, Group, Score, Scores, draw, longest, print_table  # noqa: E402
from measure.scores import frechet_distance  # noqa: E402

import vanilla_ae  # noqa: E402
import vanilla_vae_celeba  # noqa: E402
import vanilla_vae_mnist  # noqa: E402
from common import cli, files, training  # noqa: E402
from common.data.digits import load_digits  # noqa: E402
from common.data.faces import TEST, TRAIN  # noqa: E402
from common.data.tensors import gather, random_flip, select, shuffled_batches, stream_seed, to_float  # noqa: E402
from common.errors import UserError  # noqa: E402
from common.metrics import knn_accuracy  # noqa: E402
from common.training import checkpoint  # noqa: E402
from common.training.device import choose_device, set_up  # noqa: E402

MARKS = (0.1, 0.25, 0.5, 0.75, 1)  # the shares of a recipe's epochs after which it is scored, besides the first
FULL = 0.85  # the share of a budget that is enough: no longer run of ours is needed
QUICK = {"digits": 2000, "faces": 600}  # images
NEG_ELBO = Score("neg_elbo_grey", "-ELBO (nats per image)", ".1f")
MSE, KNN = Score("mse", "MSE", ".4f"), Score("knn", "5-NN accuracy", ".1%", more=True)
SAMPLES = Score("frechet_samples", "Fréchet distance of N(0, I) samples", ".0f")
RECONSTRUCTIONS = Score("frechet_reconstructions", "Fréchet distance of reconstructions", ".0f")


GROUPS = {
    "digits20": Group(
        "VAE on MNIST, 20 dimensions", vanilla_vae_mnist, ("--latent-dim", "20"), (NEG_ELBO, KNN, MSE),
        (pytorch(), pytorch(our_data_path=True), plain(512, 256, latent_dim=20)),
    ),
    "digits2": Group(
        "VAE on MNIST, 2 dimensions", vanilla_vae_mnist, (), (NEG_ELBO, KNN, MSE),
        (keras(), plain(512, 256, 128, latent_dim=2)),
    ),
    "ae": Group("Autoencoder on MNIST, 2 dimensions", vanilla_ae, (), (MSE, KNN), (parametric_umap(),)),
    "faces": Group(
        "VAE on faces", vanilla_vae_celeba, (), (MSE, SAMPLES, RECONSTRUCTIONS, Score("kl", "KL (nats)", ".0f", None)),
        (pytorch_vae(),),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """A group's data: its name, training images (N, C, S, S) uint8, the recipes' batches, functions to score models."""

    data: str
    images: Tensor
    batches: Batches
    score: Callable[[nn.Module], Scores]
    score_ours: Callable[[Path], Scores]  # takes the folder of a run of ours
    faces: bool = False


def digits_task(group: Group, args: Namespace, device: torch.device) -> Task:
    train, test = load_digits("MNIST", args.data_dir)
    labels = train.labels[: QUICK["digits"] if args.quick else None]
    images = train.images[: len(labels)].to(device)

    def score(model: nn.Module) -> Scores:
        """As the scripts do: the loss with the noise of evaluation; codes and pictures from the mean."""
        found = training.evaluate(model, group.script.loss, test.images, device)
        if group.script is vanilla_ae:
            encode = training.batched(model.encode, device)
            scores, latent = {"mse": found["mse"]}, encode(test.images)
        else:
            encode = training.batched(lambda batch: model.encode(batch)[0], device)
            latent = encode(test.images)
            decoded = training.batched(lambda batch: model.decode(batch).sigmoid(), device)(latent)
            error = (decoded - to_float(test.images)).square().mean().item()
            scores = {"neg_elbo_grey": found["neg_elbo"], "kl": found["kl"], "mse": error}
        return scores | {"knn": knn_accuracy(encode(images), labels, latent, test.labels)}

    def files_of_torchvision(recipe: Recipe) -> Iterator[Iterator[Tensor]]:
        from torchvision import datasets, transforms

        data = datasets.MNIST(args.data_dir, transform=transforms.ToTensor())
        workers = {"num_workers": 1, "pin_memory": True} if device.type == "cuda" else {}
        data = data if len(labels) == len(data) else Subset(data, range(len(labels)))
        loader = DataLoader(data, recipe.batch_size, shuffle=True, **workers)
        return ((batch.to(device) for batch, _ in loader) for _ in itertools.count())

    def batches(recipe: Recipe) -> Iterator[Iterator[Tensor]]:
        return files_of_torchvision(recipe) if recipe.loader else tensor_batches(recipe, images, device)

    def score_ours(folder: Path) -> Scores:
        return json.loads((folder / "results.json").read_text())["test"]

    return Task("MNIST", images, batches, score, score_ours)


def faces_task(group: Group, args: Namespace, device: torch.device) -> Task:
    """Raises UserError if the pictures have no attributes for the classifier of the Fréchet distances."""
    faces = claims.labelled_faces(args)
    train, test = (select(faces.images, faces.split == part) for part in (TRAIN, TEST))
    attributes = faces.attributes[faces.split == TRAIN]
    path = args.runs_dir / ("measure/faces_quick.pt" if args.quick else "claims/faces.pt")
    classifier = claims.trained_classifier(train, attributes, 1 if args.quick else 10, device, path, batch_size=128)
    features = training.batched(classifier.features, device)
    reference = features(test)
    images = training.on_device(train[: QUICK["faces"] if args.quick else None], device)

    def score(model: nn.Module) -> Scores:
        kl = training.evaluate(model, group.script.loss, test, device)["kl"]
        encode = training.batched(lambda batch: model.encode(batch)[0], device)
        decode = training.batched(model.decode, device)
        latent = encode(test)
        reconstructions = decode(latent)
        ways = claims.ways_of_drawing(encode(images), latent)

        def distance(pictures: Tensor) -> float:
            return frechet_distance(features(pictures.clamp(0, 1)), reference)

        samples = [distance(decode(points)) for points in ways["N(0, I)"]]
        return {
            "mse": (reconstructions - to_float(test)).square().mean().item(),
            "kl": kl,
            "frechet_samples": sum(samples) / len(samples),
            "frechet_reconstructions": distance(reconstructions),
        }

    def score_ours(folder: Path) -> Scores:
        model = group.script.VariationalAutoencoder(group.script.LATENT_DIM, images.shape[-1])
        model.load_state_dict(checkpoint.load(folder / "checkpoint.pt")["model"])
        return score(model.to(device, memory_format=training.memory_format(device)).eval())

    batches = functools.partial(tensor_batches, images=images, device=device, augment=random_flip)
    return Task(faces.description, images, batches, score, score_ours, faces=True)


def tensor_batches(
    recipe: Recipe, images: Tensor, device: torch.device, augment: Callable[[Tensor], Tensor] = lambda batch: batch
) -> Iterator[Iterator[Tensor]]:
    """Epoch after epoch, its shuffled batches in [0, 1], gathered from `images`, on `device`."""
    epoch = 0
    while True:
        order = shuffled_batches(len(images), recipe.batch_size, stream_seed("recipes", epoch), images.device)
        yield (augment(to_float(gather(images, index).to(device))) for index in order)
        epoch += 1


def measured(recipe: Recipe, task: Task, epochs: int, device: torch.device) -> dict:
    """Train the recipe, and score it after some of its epochs: its size, and a curve of seconds and scores.

    With a cycle over the whole run, each point is a run of its own, as ours are.
    """
    marks = sorted({1, *(math.ceil(share * epochs) for share in MARKS)})
    curve: list[Scores] = []
    for ends in [[mark] for mark in marks] if recipe.cycle else [marks]:
        torch.manual_seed(1)
        model = recipe.build().to(device)
        for epoch, seconds in recipe.train(model, task.batches(recipe), len(task.images), ends[-1]):
            if epoch in ends:
                curve.append({"epochs": epoch, "seconds": seconds, **task.score(model)})
                torch.manual_seed(epoch + 1)  # scoring seeds it, and every later epoch would draw the same noise
    return {"parameters": sum(weight.numel() for weight in model.parameters()), "curve": curve}


def run_script(script: str, flags: list[str]) -> None:
    """Run one of the scripts as a user does. Raises UserError, with its last line, if it fails."""
    done = subprocess.run([sys.executable, str(ROOT / f"{script}.py"), *flags], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or "no message").splitlines()[-1]
        raise UserError(f"{script}.py {' '.join(flags)} failed: {reason}")


def our_run(group: Group, epochs: int, task: Task, folder: Path, args: Namespace) -> Scores:
    """The seconds and scores of our run of so many epochs."""
    flags = [*group.flags, "--epochs", str(epochs), "--run-dir", str(folder), "--images-dir", str(folder / "images")]
    flags += ["--data-dir", str(args.data_dir), "--device", args.device]
    flags += ["--limit", str(len(task.images))] if args.quick else []
    flags += ["--faces", args.faces] if task.faces and args.faces else []
    run_script(group.script.SCRIPT, flags)
    results = json.loads((folder / "results.json").read_text())
    about = {name: results[name] for name in ("seconds", "precision")}
    return {"epochs": epochs, **about, **task.score_ours(folder)}


def within(budget: float, run: Callable[[int], None], runs: dict[int, Scores]) -> int | None:
    """The most epochs of ours whose training took at most `budget` seconds; None if a single one takes longer.

    `runs` holds those already made, by epochs; `run` makes another and adds it.
    """
    run(1)
    while True:
        fits = longest(runs, budget)
        if fits is None:
            return None
        guess = max(fits + 1, math.floor(fits * budget / runs[fits]["seconds"]))
        too_many = min((epochs for epochs in runs if epochs > fits), default=None)
        if too_many:
            guess = min(guess, too_many - 1, math.floor(too_many * budget / runs[too_many]["seconds"]))
        if guess <= fits or runs[fits]["seconds"] >= FULL * budget:
            return fits
        run(guess)


def measure(name: str, found: dict, save: Callable[[], None], args: Namespace) -> None:
    """Add the group's missing runs to `found`, and save each as it ends."""
    group, device = GROUPS[name], choose_device(args.device)
    task = (faces_task if group.script is vanilla_vae_celeba else digits_task)(group, args, device)
    about = {"data": task.data, "images": len(task.images), "machine": machine(device), "torch": torch.__version__}
    if found.get("about") != about:
        found.clear()
        found.update({"about": about, "recipes": {}, "ours": {}})
    runs = {int(epochs): scores for epochs, scores in found["ours"].items()}

    def run(epochs: int) -> None:
        if epochs not in runs:
            folder = args.runs_dir / "measure" / stem(args) / f"{name}_{epochs}"
            runs[epochs] = found["ours"][str(epochs)] = our_run(group, epochs, task, folder, args)
            print(f"{name}: ours, {group.summary(runs[epochs])}", flush=True)
            save()

    for recipe in group.recipes:
        epochs = 1 if args.quick else max(1, round(args.epochs_scale * recipe.epochs))
        row = found["recipes"].get(recipe.name)
        if row is None or row["curve"][-1]["epochs"] < epochs:
            row = found["recipes"][recipe.name] = measured(recipe, task, epochs, device)
            print(f"{name}: {recipe.name}, {group.summary(row['curve'][-1])}", flush=True)
            save()
        seconds = row["curve"][-1]["seconds"]
        for share in BUDGETS.values():
            within(share * seconds, run, runs)


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"{device.type}, {torch.get_num_threads()} of {os.cpu_count()} cores ({platform.machine()})"


def stem(args: Namespace) -> str:
    return "recipes_quick" if args.quick else "recipes"


def group_name(text: str) -> str:
    # argparse would compare a default list as a whole with its `choices`.
    if text not in GROUPS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(GROUPS)}")
    return text


def parse_args(argv: list[str] | None = None) -> Namespace:
    about = {"prog": "python tests/measure/recipes.py", "description": __doc__.splitlines()[0]}
    flags = cli.Parser(**about, formatter_class=cli.Help)
    add = flags.add_argument
    digits = [name for name in GROUPS if name != "faces"]
    add("groups", nargs="*", type=group_name, default=digits, help=f"which recipes, of {', '.join(GROUPS)}")
    add("--quick", action="store_true", help="one epoch each on a few images, in separate files")
    scale = cli.number(float, 0, above=True)
    add("--epochs-scale", type=scale, default=1.0, help="multiply the recipes' epochs by this, and ours with them")
    add("--draw", action="store_true", help="measure nothing: show the tables and the figure of earlier measurements")
    add("--faces", metavar="PATH", help="a zip or folder of pictures, or the word drawn, as in vanilla_vae_celeba.py")
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="auto: the accelerator, if any")
    add("--data-dir", type=Path, default=Path("data"), help="folder of the data sets, downloaded if absent")
    add("--images-dir", type=Path, default=Path("images"), help="folder for the figure")
    add("--runs-dir", type=Path, default=Path("runs"), help="folder for the runs")
    return flags.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    path = args.runs_dir / "measure" / f"{stem(args)}.json"
    kept = json.loads(path.read_text()) if path.exists() else {"groups": {}}
    if not args.draw:
        files.check_writable(args.images_dir)
        files.check_writable(path.parent)
        set_up(choose_device(args.device))  # as the scripts do: the recipes benefit too
        for name in args.groups:
            measure(name, kept["groups"].setdefault(name, {}), functools.partial(files.write_json, path, kept), args)
    groups = {name: kept["groups"][name] for name in GROUPS if name in kept["groups"]}
    if not groups:
        raise UserError(f"nothing has been measured yet: {path} does not exist")
    for name, found in groups.items():
        print_table(GROUPS[name], found)
    draw(GROUPS, groups, args.images_dir / f"{stem(args)}.png")


if __name__ == "__main__":
    cli.run(main)
