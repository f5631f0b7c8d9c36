"""Published recipes beside ours, and our defaults with one thing replaced: seconds and scores, a table for each task.

python tests/measure/compare.py recipes [--faces PATH]       trained on the training split, scored on the test split
python tests/measure/compare.py ablations [--faces PATH]     scored on held-out training digits, and on valid faces

A row is a script with other flags, or with other values for some of its names; a published recipe stands in the place
of `fit`. Every run is kept in RESULTS/compare.jsonl as it ends, and one that is there isn't repeated. Seconds are those
of training alone. The images of all rows lie in one tensor, which makes published recipes faster than they were.
"""

import functools
import itertools
import json
import math
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType

import laboratory as lab
import numpy as np
import torch
from claims import Judge, model_of
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, AdamW

import vanilla_ae
import vanilla_vae_celeba
import vanilla_vae_mnist
from common import cli, training
from common.data.batches import binarized, random_flip
from common.data.celeba import load_faces
from common.data.digits import load_digits
from common.figures import sheets
from common.metrics import knn_accuracy


class Coder(nn.Module):
    """A published VAE with the scripts' interface."""

    def __init__(self, encoder: Iterable[nn.Module], decoder: Iterable[nn.Module]):
        super().__init__()
        self.encoder, self.decode = nn.Sequential(*encoder), nn.Sequential(*decoder)
        self.register_buffer("variance", torch.ones(()))  # the loss of the faces' script needs it; no score uses it

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder(images).chunk(2, dim=1)


def mlp(*sizes: int) -> list[nn.Module]:
    """Linear layers with ReLU after each."""
    return [part for inputs, outputs in itertools.pairwise(sizes) for part in (nn.Linear(inputs, outputs), nn.ReLU())]


def perceptron(*hidden: int, latent_dim: int) -> nn.Module:
    back = [*mlp(latent_dim, *reversed(hidden)), nn.Linear(hidden[0], 784), nn.Unflatten(1, (1, 28, 28))]
    return Coder([nn.Flatten(), *mlp(784, *hidden), nn.Linear(hidden[-1], 2 * latent_dim)], back)


def up(inputs: int, outputs: int, stride: int = 2) -> nn.ConvTranspose2d:
    """A transposed convolution of 3x3 that makes maps `stride` times as large."""
    return nn.ConvTranspose2d(inputs, outputs, 3, stride, padding=1, output_padding=stride - 1)


def keras_network() -> nn.Module:
    """Convolutions, a dense layer of 16, two dimensions, and back, with Keras' initial weights."""
    body = [nn.Conv2d(1, 32, 3, 2, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, padding=1), nn.ReLU(), nn.Flatten()]
    back = [*mlp(2, 3136), nn.Unflatten(1, (64, 7, 7)), up(64, 64), nn.ReLU(), up(64, 32), nn.ReLU(), up(32, 1, 1)]
    model = Coder([*body, *mlp(64 * 7 * 7, 16), nn.Linear(16, 4)], back)
    for weight in model.parameters():
        nn.init.xavier_uniform_(weight) if weight.ndim > 1 else nn.init.zeros_(weight)
    return model


def pytorch_vae_network() -> nn.Module:
    """Convolutions of 32 to 512 channels with BatchNorm and LeakyReLU, 128 dimensions, and back, tanh."""
    channels, body, back = (32, 64, 128, 256, 512), [], [nn.Linear(128, 512 * 4), nn.Unflatten(1, (512, 2, 2))]
    for inputs, outputs in itertools.pairwise((3, *channels)):
        body += [nn.Conv2d(inputs, outputs, 3, 2, padding=1), nn.BatchNorm2d(outputs), nn.LeakyReLU()]
    for inputs, outputs in itertools.pairwise((*reversed(channels), 32)):
        back += [up(inputs, outputs), nn.BatchNorm2d(outputs), nn.LeakyReLU()]
    body += [nn.Flatten(), nn.Linear(512 * 4, 2 * 128)]
    return Coder(body, [*back, nn.Conv2d(32, 3, 3, padding=1), nn.Tanh()])


def pytorch_vae_loss(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    images, script = random_flip(images), vanilla_vae_celeba
    mean, log_variance = model.encode(images)
    error = (model.decode(script.reparameterize(mean, log_variance)) - images).square().flatten(1).mean(dim=1)
    return {"loss": error + 0.00025 * script.kl_divergence(mean, log_variance)}


def published(
    network: Callable,
    optimizer: Callable,
    batch_size: int,
    loss: Callable = vanilla_vae_mnist.loss,
    schedule: Callable = lambda epoch: 1.0,
) -> Callable:
    """A recipe in the place of a script's `fit`. schedule: an epoch's learning rate, as a share of the optimizer's."""

    def fit(run: training.Run, args: Namespace, train: lab.Data, *_: lab.Data) -> nn.Module:
        images, model = training.on_device(train.images, run.device), network().to(run.device)
        updates = optimizer(model.parameters())
        (group,) = updates.param_groups
        rate = group["lr"]
        for epoch in run.epochs(model, updates):
            for batch in epoch.batches(images, batch_size):
                group["lr"] = rate * schedule(epoch)
                terms = loss(model, batch)
                updates.zero_grad()
                terms["loss"].mean().backward()
                updates.step()
                epoch.record(terms)
        return model

    return fit


# github.com/pytorch/examples, vae/main.py
PYTORCH = published(lambda: perceptron(400, latent_dim=20), lambda weights: Adam(weights, 1e-3), 128)
# keras.io/examples/generative/vae, which trains on the test digits too; here on the training digits alone
KERAS = published(keras_network, lambda weights: Adam(weights, 1e-3, eps=1e-7), 128)
# github.com/AntixK/PyTorch-VAE, configs/vae.yaml
DECAY = {"loss": pytorch_vae_loss, "schedule": lambda epoch: 0.95**epoch.number}
PYTORCH_VAE = published(pytorch_vae_network, lambda weights: Adam(weights, 5e-3), 64, **DECAY)


def plain(*hidden: int, latent_dim: int) -> Callable:
    """What a practitioner might write in twenty lines: nobody's in particular, its rate tuned on held-out digits."""
    adamw = functools.partial(AdamW, lr=4e-3, fused=True)
    network = functools.partial(perceptron, *hidden, latent_dim=latent_dim)
    return published(network, adamw, 256, schedule=lambda epoch: training.one_cycle(epoch.progress))


@dataclass(frozen=True)
class Task:
    """What is learnt: by a script with some flags; its scores, by name and format; the recipes, with their epochs."""

    title: str
    script: ModuleType
    scores: dict[str, tuple[str, str]]
    flags: dict[str, object] = field(default_factory=dict)
    recipes: Sequence[tuple[str, int, Callable]] = ()


MSE, KNN, KL = ("MSE", ".4f"), ("5 nearest neighbours", ".1%"), ("KL", ".1f")
NATS = {"neg_elbo": ("-ELBO, grey", ".2f"), "neg_elbo_binary": ("-ELBO, black and white", ".2f"), "kl": KL}
NATS |= {"mse": MSE, "knn": KNN}
FACES = {"mse": ("MSE", ".5f"), "kl": KL, "N(0, I): frechet": ("Fréchet distance of N(0, I)", ".1f")}
FACES |= {"reconstructions: frechet": ("of reconstructions", ".1f")}
PLAIN2 = ("plain 784-512-256-128-2, AdamW", 10, plain(512, 256, 128, latent_dim=2))
PLAIN20 = ("plain 784-512-256-20, AdamW", 10, plain(512, 256, latent_dim=20))
VAE2, VAE20 = [("Keras' example", 30, KERAS), PLAIN2], [("PyTorch's example", 10, PYTORCH), PLAIN20]
TASKS = {
    "ae": Task("Autoencoder on MNIST, 2 dimensions", vanilla_ae, {"mse": MSE, "knn": KNN}),
    "vae2": Task("VAE on MNIST, 2 dimensions", vanilla_vae_mnist, NATS, recipes=VAE2),
    "vae20": Task("VAE on MNIST, 20 dimensions", vanilla_vae_mnist, NATS, {"latent_dim": 20}, VAE20),
    "faces": Task("VAE on faces", vanilla_vae_celeba, FACES, {}, [("PyTorch-VAE's vanilla VAE", 100, PYTORCH_VAE)]),
}
DRAWN = ("vae2", "vae20")


def recipes(task: Task, precision: str) -> list[tuple[str, dict, lab.Patches]]:
    """The published recipes, in fp32, and ours, in both precisions unless bf16 is slow here: names, flags, patches."""
    rows = []
    for name, epochs, recipe in task.recipes:
        rows.append((name, {"epochs": epochs, "precision": "fp32"}, [(task.script, "fit", recipe)]))
    for each in sorted({"fp32", precision}, reverse=True):
        for epochs in (1, 4, task.script.DEFAULTS["epochs"]):
            rows.append((f"ours, {each}, --epochs {epochs}", {"epochs": epochs, "precision": each}, []))
    return rows


def ablations(task: Task, precision: str) -> list[tuple[str, dict, lab.Patches]]:
    """The defaults with one thing replaced, by a flag or by another value for a name while it trains."""
    script, faces, rows = task.script, task.script is vanilla_vae_celeba, []
    usual = {"precision": precision, "epochs": 6 if faces else 10}  # so that all take less than two hours

    def row(name: str, *patches: tuple[object, str, object], **flags: object) -> None:
        rows.append((name, usual | flags, patches))

    row("the defaults")
    linear, alone = nn.Linear.forward, lambda model, muon, lr, **_: AdamW(model.parameters(), lr, fused=True)
    others = {"AdamW alone": [(training, "Optimizer", alone)], "ReLU": [(nn, "SiLU", nn.ReLU), (F, "silu", F.relu)]}
    if not faces:
        others["plain layers"] = [(script.Residual, "forward", lambda layer, hidden: F.silu(linear(layer, hidden)))]
    half = (script.DEFAULTS["lr"] if faces else script.LEARNING_RATE) / 2
    lr = ("DEFAULTS", script.DEFAULTS | {"lr": half}) if faces else ("LEARNING_RATE", half)
    for name, patches in others.items():
        row(name, *patches)
        row(f"{name}, half the learning rate", *patches, (script, *lr))
    # The same rise, then a cosine.
    cosine = lambda done: min(done / 0.3, 0.5 + 0.5 * math.cos(math.pi * max(0.0, done - 0.3) / 0.7))  # noqa: E731
    row("cosine decay", (training, "one_cycle", cosine))
    row("no weight decay of Muon", (script, "MUON_DECAY", 0.0))
    if faces:
        row("BatchNorm", (script, "Norm", lambda _, channels: nn.BatchNorm2d(channels)))
        row("no standardize", (script, "standardize", lambda *_: None))
        for beta in (1, 16, 24):
            row(f"beta {beta}", beta=beta)
    else:
        row("no LayerNorm", (nn, "LayerNorm", nn.Identity))
        row("batches of 128", batch_size=128)
        row("batches of 2,048", batch_size=2048)
        # The mean image's logits are the only ones that `fit` computes.
        row("no start at the mean image", (Tensor, "logit", lambda image, eps: torch.zeros_like(image)))
    return rows


def split(task: Task, args: Namespace) -> tuple[list[lab.Data], lab.Data]:
    """What `fit` takes, and what is scored: the test split of `recipes`, held-out pictures of `ablations`."""
    if task.script is vanilla_vae_celeba:
        train, valid, test = (part.first(args.limit) for part in load_faces(args.faces, args.data_dir))
        return [train, valid], test if args.command == "recipes" else valid
    train, test = (part.first(args.limit) for part in load_digits("MNIST", args.data_dir))
    if args.command == "recipes":
        return [train], test
    count = len(train.images) * 5 // 6  # 50,000
    return [train.first(count)], replace(train, images=train.images[count:], labels=train.labels[count:])


def scores_of(network: nn.Module, task: Task, train: lab.Data, test: lab.Data, judge: Judge | None) -> dict[str, float]:
    """The scores of a model: the losses have evaluation's noise, all others take the means of q(z|x)."""
    network, script = network.eval(), task.script
    model, scores = model_of(network, script is not vanilla_ae), {}
    if script is not vanilla_ae:
        scores |= training.evaluate(network, script.loss, test.images)
    if script is vanilla_vae_mnist:
        black_and_white = binarized(test.images, training.EVALUATION_SEED)
        scores["neg_elbo_binary"] = training.evaluate(network, script.loss, black_and_white)["neg_elbo"]
    scores["mse"], codes = model.mse(test.images), model.encode(test.images)[0]
    if judge:
        noise = torch.randn(codes.shape, generator=torch.Generator().manual_seed(0))
        return scores | judge(model.decode(codes), "reconstructions") | judge(model.decode(noise), "N(0, I)")
    return scores | {"knn": knn_accuracy(model.encode(train.images)[0], train.labels, codes, test.labels)}


def measured(name: str, args: Namespace) -> lab.Results:
    """The scores of each row of a task; runs that are missing are made. Prints a table."""
    task, path, judge = TASKS[name], args.results / "compare.jsonl", None
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    data, test = split(task, args)
    if name == "faces":
        judge = Judge(lab.features(data[0], test, args)[0], test.images)
    rows = (recipes if args.command == "recipes" else ablations)(task, args.precision)
    results = lab.Results(f"{args.seeds} seeds; {lab.machine(args)}")
    for seed, (row, changes, patches) in itertools.product(range(args.seeds), rows):
        flags = task.flags | changes | ({"epochs": args.epochs} if args.epochs else {})
        key = {"task": name, "row": row, "flags": flags, "seed": seed}
        key |= {"data": data[0].description, "machine": lab.machine(args)}
        line = next((line for line in lines if line.items() >= key.items()), None)
        if line is None:
            with lab.patched(patches), lab.started(task.script, args, seed=seed, **flags) as (run, run_args):
                model = task.script.fit(run, run_args, *data)
                line = key | {"epochs": len(run.history), "seconds": sum(epoch["seconds"] for epoch in run.history)}
                line |= scores_of(model, task, data[0], test, judge)
            with open(path, "a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{name}: {row}, seed {seed}: {line['seconds']:.1f} s", flush=True)
        results.add(row, line)
    title = f"{task.title}: trained on {data[0].description}, scored on {len(test.images):,} others"
    columns = {"epochs": ("epochs", "g"), "seconds": ("seconds", ".1f")} | task.scores
    results.table(title, [*results.found], columns)
    return results


def draw(tasks: dict[str, lab.Results], figures: sheets.Figures) -> None:
    """The -ELBO over the seconds of training, a panel for each of both VAEs on digits."""
    what = "test -ELBO over seconds of training, lower and further left is better"
    with figures.drawing("recipes", None, what, (sheets.WIDTH, 4.4), ncols=2) as panels:
        for axes, name in zip(panels, DRAWN, strict=True):
            lines: dict[str, list[tuple[float, ...]]] = {}
            for row, scores in tasks[name].found.items():
                both = np.array([scores["seconds"], scores["neg_elbo"]]).T
                label = row.rpartition(", ")[0] if row.startswith("ours") else row
                lines.setdefault(label, []).append((*both.mean(axis=0), *both.std(axis=0, ddof=len(both) > 1)[::-1]))
            for label, points in lines.items():
                axes.errorbar(*zip(*points, strict=True), marker="o", capsize=2, label=label)
            title = TASKS[name].title
            axes.set(xscale="log", xlabel="seconds of training", ylabel="-ELBO (nats per image)", title=title)
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:g}"[0] in "25" else "")
            axes.grid(alpha=0.3, which="both")
            axes.legend(fontsize=8)


def main(argv: Sequence[str] = ()) -> None:
    flags = lab.parser("compare.py", __doc__, ["recipes", "ablations"])
    flags.add_argument("--tasks", nargs="+", choices=TASKS, help="None: all, faces only with --faces, ae for recipes")
    args = flags.parse_args(argv)
    left_out = {"ae": args.command == "ablations", "faces": not args.faces}
    args.tasks = args.tasks or [name for name in TASKS if not left_out.get(name)]
    lab.prepare(args)
    tasks = {name: measured(name, args) for name in args.tasks}
    if args.command == "recipes" and tasks.keys() >= set(DRAWN):
        draw(tasks, sheets.Figures("MNIST", args.images_dir, "compare"))


if __name__ == "__main__":
    cli.run(main)
