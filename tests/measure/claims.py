"""The README's claims, measured and drawn.

python tests/measure/claims.py digits      the tables and figures of MNIST
python tests/measure/claims.py faces       those of faces (--faces as in vanilla_vae_celeba.py)

The models are those of the scripts, with default flags except --latent-dim, --noise and --ae. A finished run in
runs/SCRIPT is used if it is the one needed; others are trained once, in runs/claims.
"""

import itertools
import statistics
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from measure.scores import PrincipalComponents, frechet_distance, linear_accuracy  # noqa: E402

import vanilla_ae  # noqa: E402
import vanilla_vae_celeba  # noqa: E402
import vanilla_vae_mnist  # noqa: E402
from common import cli, files, training  # noqa: E402
from common.data.digits import Digits, load_digits  # noqa: E402
from common.data.faces import TEST, TRAIN, Faces, load_faces  # noqa: E402
from common.data.tensors import gather, select, shuffled_batches, stream_seed, to_float  # noqa: E402
from common.errors import UserError  # noqa: E402
from common.figures import digits as digit_figures  # noqa: E402
from common.figures import faces as face_figures  # noqa: E402
from common.figures import sheets  # noqa: E402
from common.latent import fit_gaussian, walk  # noqa: E402
from common.metrics import knn_accuracy  # noqa: E402
from common.training import checkpoint  # noqa: E402
from common.training.device import choose_device  # noqa: E402
from common.training.optimizer import one_cycle  # noqa: E402

DIMENSIONS = (2, 8, 32)
LABELS = (100, 1000, 60_000)
SEEDS = 5  # draws of samples, of pairs and of labelled images
CONFIDENT = 0.9
FIGURE_DIMENSIONS = 8  # of the models in the figures of digits
FACE_PAIRS = 4
FEATURES = 128  # size of the classifiers' penultimate layer


@dataclass(frozen=True)
class Model:
    """A trained model: `encode` (N, C, S, S), uint8 or in [0, 1] -> (N, D), a VAE's means; `decode` -> in [0, 1]."""

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]


class Classifier(nn.Module):
    """(B, C, S, S) in [0, 1] -> `outputs` logits: a small convolutional network whose features are compared."""

    def __init__(self, channels: int, size: int, outputs: int):
        super().__init__()
        layers, side = [], size
        for inputs, filters in itertools.pairwise((channels, 32, 64, 128)):
            layers += [nn.Conv2d(inputs, filters, 5, stride=2, padding=2), nn.BatchNorm2d(filters), nn.ReLU()]
            side = (side + 1) // 2
        self.features = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * side**2, FEATURES), nn.ReLU())
        self.head = nn.Linear(FEATURES, outputs)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def shifted(images: Tensor, most: int) -> Tensor:
    """`images` (B, C, S, S) moved together by up to `most` pixels each way, for a classifier's training."""
    down, right = torch.randint(-most, most + 1, (2,)).tolist()
    return images.roll((down, right), dims=(2, 3))


def trained_classifier(
    images: Tensor, targets: Tensor, epochs: int, device: torch.device, path: Path, batch_size: int = 256
) -> Classifier:
    """A classifier of `images` (N, C, S, S) uint8: of classes for targets (N,), of attributes for (N, A) bool.

    It is kept at `path`, and read from there if it was trained on the same images and targets.
    """
    single = targets.ndim == 1
    outputs = int(targets.max()) + 1 if single else targets.shape[1]
    data = {"images": list(images.shape), "sum": int(images.sum()), "targets": int(targets.sum())}
    arguments = data | {"outputs": outputs, "epochs": epochs}
    torch.manual_seed(0)
    model = Classifier(images.shape[1], images.shape[-1], outputs).to(device)
    if path.exists():
        state = checkpoint.load(path)
        if state["arguments"] == arguments:
            load(model, state, path)
            return model.eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, fused=True)
    images, targets = training.on_device(images, device), targets.to(device)
    steps = epochs * -(-len(images) // batch_size)
    done = 0
    for epoch in range(epochs):
        for index in shuffled_batches(len(images), batch_size, stream_seed("classifier", epoch), images.device):
            optimizer.param_groups[0]["lr"] = 2e-3 * one_cycle((done + 0.5) / steps)
            batch, answer = shifted(to_float(gather(images, index).to(device)), 2), targets[index.to(device)]
            logits = model(batch)
            if single:
                loss = F.cross_entropy(logits, answer)
            else:
                loss = F.binary_cross_entropy_with_logits(logits, answer.float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
        print(f"classifier: epoch {epoch + 1}/{epochs}, loss {loss.item():.3f}", flush=True)
    state = {"script": "claims", "arguments": arguments, "data": "", "precision": "fp32", "epoch": epochs}
    checkpoint.save(path, state | {"model": model.state_dict(), "optimizer": [], "history": []})
    return model.eval()


def load(model: nn.Module, state: dict, path: Path) -> None:
    """Fill `model` from a checkpoint. Raises UserError if it is of another architecture."""
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise UserError(f"{path} doesn't fit this version of the model: remove it and run again") from error


def finished_run(
    script: ModuleType, choices: Sequence[str], args: Namespace, faces: str | None = None
) -> tuple[dict, Path]:
    """The checkpoint of `script` with the flags `choices`, and its path; trained first if absent.

    `faces` is the script's description of its pictures.
    """
    if args.epochs:
        choices = [*choices, "--epochs", str(args.epochs)]
    if args.limit:
        choices = [*choices, "--limit", str(args.limit)]
    folder = args.runs_dir / "claims" / "_".join([script.SCRIPT, *(word.lstrip("-") for word in choices)])
    flags = [*choices, *(["--faces", args.faces] if faces and args.faces else []), "--device", args.device]
    flags += ["--data-dir", str(args.data_dir), "--run-dir", str(folder), "--images-dir", str(folder / "images")]
    wanted = script.parse_args(flags)
    arguments = training.Run(script.SCRIPT, wanted, torch.device("cpu")).arguments
    description = (script.SCRIPT, arguments, faces or "", wanted.epochs)
    own, ours = args.runs_dir / script.SCRIPT / "checkpoint.pt", folder / "checkpoint.pt"
    for path in (own, ours):
        if path.exists():
            state = checkpoint.load(path)
            if (state["script"], state["arguments"], state["data"], state["epoch"]) == description:
                return state, path
    print(f"python {script.SCRIPT}.py {' '.join(flags)}", flush=True)
    script.main([*flags, *(["--resume"] if ours.exists() else [])])
    return checkpoint.load(ours), ours


def digit_model(kind: str, dimensions: int, args: Namespace, device: torch.device, noise: float = 0.0) -> Model:
    """The autoencoder ("AE") or the VAE on MNIST with a latent space of that many dimensions."""
    script = vanilla_ae if kind == "AE" else vanilla_vae_mnist
    choices = ["--latent-dim", str(dimensions), *(["--noise", str(noise)] if noise else [])]
    state, path = finished_run(script, choices, args)
    network = (vanilla_ae.Autoencoder if kind == "AE" else vanilla_vae_mnist.VariationalAutoencoder)(dimensions)
    load(network, state, path)
    network = network.to(device).eval()

    if kind == "AE":
        return Model(training.batched(network.encode, device), training.batched(network.decode, device))
    return Model(
        training.batched(lambda images: network.encode(images)[0], device),
        training.batched(lambda latent: network.decode(latent).sigmoid(), device),
    )


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table in Markdown, as the README shows it."""
    print(f"\n**{title}**\n\n| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")
    print(flush=True)


def with_spread(values: Sequence[float], digits: int) -> str:
    """The mean over the seeds, and their standard deviation."""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(SEEDS)]


def ways_of_drawing(train_codes: Tensor, codes: Tensor) -> dict[str, list[Tensor]]:
    """Latent points (N, D), as many as `codes`, of each way to make new images; one draw per seed if random."""
    mean, factor = fit_gaussian(train_codes)
    found: dict[str, list[Tensor]] = {"reconstructions": [codes], "N(0, I)": [], "fitted Gaussian": [], "midpoints": []}
    for generator in generators():
        noise = torch.randn(codes.shape, generator=generator)
        partner = codes[torch.randperm(len(codes), generator=generator)]
        found["N(0, I)"].append(noise)
        found["fitted Gaussian"].append(mean + noise @ factor.T)
        found["midpoints"].append((codes + partner) / 2)
    return found


def realism(
    models: dict[str, Model],
    codes: dict[str, tuple[Tensor, Tensor]],
    classifier: Classifier,
    train: Tensor,
    test: Tensor,
    device: torch.device,
    confident: bool,
) -> tuple[list[str], list[list[str]], dict]:
    """Fréchet distances to the test images of reconstructions, samples and midpoints of random pairs.

    `codes` are those of the train and the test images; `confident` adds the share of images that the classifier
    assigns to one class with more than 90%. Returns a header, rows for a table, and the numbers.
    """

    def judge(images: Tensor) -> list[float]:
        features = training.batched(classifier.features, device)(images)
        found = [frechet_distance(features, reference)]
        if confident:
            sure = training.batched(classifier.head, device)(features).softmax(dim=1).max(dim=1).values > CONFIDENT
            found.append(sure.double().mean().item())
        return found

    reference = training.batched(classifier.features, device)(test)
    some = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[: len(test)]]
    numbers: dict = {"train images": {"real": [judge(some)]}, "test images": {"real": [judge(test)]}}
    for name, model in models.items():
        ways = ways_of_drawing(*codes[name])
        numbers[name] = {way: [judge(model.decode(points)) for points in draws] for way, draws in ways.items()}
    ways = ("reconstructions", "midpoints", "N(0, I)", "fitted Gaussian")
    rows = [[name, *(cell(numbers[name][way]) for way in ways)] for name in models]
    rows.append([f"{len(some):,} training images", cell(numbers["train images"]["real"]), "", "", ""])
    return ["", *ways], rows, numbers


def cell(found: list[list[float]]) -> str:
    """The distances of several draws, and the share of sure answers, if there is one."""
    distances, *shares = zip(*found, strict=True)
    return with_spread(distances, 1) + "".join(f" ({statistics.mean(share):.0%})" for share in shares)


def claims_of_digits(args: Namespace) -> None:
    device = choose_device(args.device)
    train, test = load_digits("MNIST", args.data_dir)
    models = {
        f"{kind}, {dimensions}": digit_model(kind, dimensions, args, device)
        for dimensions in DIMENSIONS
        for kind in ("AE", "VAE")
    }
    denoiser = digit_model("AE", max(DIMENSIONS), args, device, noise=args.noise)
    pixels = [to_float(split.images).flatten(1) for split in (train, test)]
    codes = {name: (model.encode(train.images), model.encode(test.images)) for name, model in models.items()}
    decoded = {name: model.decode(codes[name][1]).flatten(1) for name, model in models.items()}
    principal = PrincipalComponents.fit(pixels[0], max(DIMENSIONS))
    for dimensions in DIMENSIONS:
        name, components = f"PCA, {dimensions}", replace(principal, directions=principal.directions[:, :dimensions])
        codes[name] = tuple(components.encode(part) for part in pixels)
        decoded[name] = components.decode(codes[name][1])
    codes["raw pixels, 784"] = tuple(pixels)
    results: dict = {}

    rows = []
    for name in sorted(codes, key=lambda name: int(name.split(", ")[1])):
        error = (decoded[name] - pixels[1]).square().mean().item() if name in decoded else None
        accuracy = knn_accuracy(codes[name][0], train.labels, codes[name][1], test.labels)
        results[name] = {"mse": error, "knn": accuracy, "linear": {}}
        for count in LABELS:
            found = []
            for generator in generators()[: SEEDS if count < len(train.labels) else 1]:
                chosen = torch.randperm(len(train.labels), generator=generator)[:count]
                labels = train.labels[chosen]
                found.append(linear_accuracy(codes[name][0][chosen], labels, codes[name][1], test.labels))
            results[name]["linear"][count] = found
        linear = [with_spread([100 * value for value in found], 1) for found in results[name]["linear"].values()]
        rows.append([name, "" if error is None else f"{error:.4f}", f"{100 * accuracy:.1f}", *linear])
    table(
        "Dimensionality reduction and feature extraction: test MSE; test accuracy in % of 5 nearest neighbours and of "
        f"a linear classifier trained with so many labels (± over {SEEDS} draws of them, one model per row)",
        ["code, dimensions", "MSE", "5-NN", *(f"{count:,} labels" for count in LABELS)],
        rows,
    )

    path = args.images_dir / f"{vanilla_ae.SCRIPT}_denoising.png"
    results["denoising"] = digit_figures.draw_denoising(
        test, args.noise, lambda noisy: denoiser.decode(denoiser.encode(noisy)), path
    )
    table(
        f"Denoising: mean PSNR of the test digits in dB, Gaussian noise of standard deviation {args.noise:g}, "
        "clipped to [0, 1]",
        ["noisy", "3x3 median filter", f"autoencoder, {max(DIMENSIONS)} dimensions"],
        [[f"{results['denoising'][name]:.1f}" for name in ("psnr_noisy", "psnr_median", "psnr")]],
    )

    classifier = trained_classifier(train.images, train.labels, 8, device, args.runs_dir / "claims/digits.pt")
    answers = training.batched(classifier, device)(test.images).argmax(dim=1)
    accuracy = (answers == test.labels).double().mean().item()
    header, rows, results["realism"] = realism(models, codes, classifier, train.images, test.images, device, True)
    table(
        f"Realism: Fréchet distance to the {len(test.labels):,} test digits between features of a classifier of "
        f"{accuracy:.2%} test accuracy, ± over {SEEDS} draws, and the share of images of which it is over "
        f"{CONFIDENT:.0%} sure",
        header,
        rows,
    )
    results["classifier_accuracy"] = accuracy
    files.write_json(args.runs_dir / "claims/digits.json", results)
    draw_digits(models, codes, test, args.images_dir)


def draw_samples(models: dict[str, Model], codes: dict[str, Tensor], columns: int, title: str, path: Path) -> None:
    """Two rows of samples of each model by each sampler; `codes` (N, D) are those of the training images."""
    rows, names = [], []
    for name, model in models.items():
        mean, factor = fit_gaussian(codes[name])
        noise = torch.randn(2 * columns, len(mean), generator=torch.Generator().manual_seed(face_figures.SAMPLES_SEED))
        for way, points in (("N(0, I)", noise), ("fitted Gaussian", mean + noise @ factor.T)):
            rows.append(model.decode(points).unflatten(0, (2, columns)))
            names += [f"{name}\n{way}", ""]
    sheet = torch.cat(rows)
    sheet = sheet[:, :, 0] if sheet.shape[2] == 1 else sheet.movedim(2, -1)
    sheets.save(sheets.pictures(sheet.numpy(), title, names=names), path)


def draw_digits(models: dict[str, Model], codes: dict[str, tuple[Tensor, Tensor]], test: Digits, folder: Path) -> None:
    """Samples of both models by both samplers; the same pairs through both."""
    kinds = {kind: f"{kind}, {FIGURE_DIMENSIONS}" for kind in ("AE", "VAE")}
    title = f"Digits decoded from the same random draws, latent spaces of {FIGURE_DIMENSIONS} dimensions"
    chosen = {kind: models[name] for kind, name in kinds.items()}
    train_codes = {kind: codes[name][0] for kind, name in kinds.items()}
    draw_samples(chosen, train_codes, 20, title, folder / "claims_samples.png")

    shown = digit_figures.first_of_each_class(test, 1)
    originals, rows, names = to_float(test.images), [], []
    for first, second in digit_figures.PAIRS:
        for kind, name in kinds.items():
            row = walk(originals, codes[name][1], models[name].decode, shown[first], shown[second], digit_figures.STEPS)
            rows.append(row[:, 0])
            names.append(kind)
    title = f"The first digits of two classes, and those between them: AE and VAE, {FIGURE_DIMENSIONS} dimensions"
    sheet = sheets.pictures(torch.stack(rows).numpy(), title, sheets.walk_columns(digit_figures.STEPS), names)
    sheets.save(sheet, folder / "claims_interpolation.png")


def face_model(plain: bool, faces: Faces, args: Namespace, device: torch.device) -> Model:
    """The face script's VAE with its default flags, or with --ae."""
    script = vanilla_vae_celeba
    state, path = finished_run(script, ["--ae"] if plain else [], args, faces.description)
    network = script.VariationalAutoencoder(script.LATENT_DIM, faces.images.shape[-1])
    load(network, state, path)
    network = network.to(device, memory_format=training.memory_format(device)).eval()
    return Model(
        training.batched(lambda images: network.encode(images)[0], device),
        training.batched(lambda latent: network.decode(latent).clamp(0, 1), device),
    )


def labelled_faces(args: Namespace) -> Faces:
    """The pictures of --faces. Raises UserError if they have no attributes to train a classifier with."""
    faces = load_faces(args.faces, args.data_dir)
    if faces.attributes is None:
        raise UserError(f"{faces.source} has no attributes to train a classifier with: add list_attr_celeba.txt")
    return faces


def claims_of_faces(args: Namespace) -> None:
    """Raises UserError if the pictures have no attributes, or if there are too few to test with."""
    device = choose_device(args.device)
    faces = labelled_faces(args)
    train, test = (select(faces.images, faces.split == part) for part in (TRAIN, TEST))
    if len(test) < FEATURES:
        raise UserError(f"{len(test)} test faces in {faces.source} are too few: at least {FEATURES} are needed")
    models = {
        "AE": face_model(True, faces, args, device),
        "VAE": face_model(False, faces, args, device),
    }
    codes = {name: (model.encode(train), model.encode(test)) for name, model in models.items()}
    path = args.runs_dir / "claims/faces.pt"
    classifier = trained_classifier(train, faces.attributes[faces.split == TRAIN], 10, device, path, batch_size=128)
    truth = faces.attributes[faces.split == TEST]
    accuracy = ((training.batched(classifier, device)(test) > 0) == truth).double().mean().item()
    usual = torch.maximum(truth.double().mean(dim=0), 1 - truth.double().mean(dim=0)).mean().item()
    header, rows, numbers = realism(models, codes, classifier, train, test, device, False)
    table(
        f"Realism: Fréchet distance to the {len(test):,} test faces of {faces.source} between features of a classifier "
        f"of {truth.shape[1]} attributes (test accuracy {accuracy:.1%}; always guessing the majority: {usual:.1%}), "
        f"± over {SEEDS} draws",
        header,
        rows,
    )
    files.write_json(args.runs_dir / "claims/faces.json", {"realism": numbers, "classifier_accuracy": accuracy})

    title = f"Faces decoded from the same random draws: autoencoder and VAE on {faces.source}"
    path = args.images_dir / "claims_face_samples.png"
    draw_samples(models, {name: codes[name][0] for name in models}, 12, title, path)
    originals, rows, names = to_float(test[: 2 * FACE_PAIRS]), [], []
    for first in range(0, 2 * FACE_PAIRS, 2):
        for name, model in models.items():
            rows.append(walk(originals, codes[name][1], model.decode, first, first + 1, face_figures.STEPS))
            names.append(name)
    title = f"The first test faces in pairs, and the faces between them: autoencoder and VAE on {faces.source}"
    sheet = torch.stack(rows).movedim(2, -1).numpy()
    sheets.save(
        sheets.pictures(sheet, title, sheets.walk_columns(face_figures.STEPS), names), args.images_dir / "5.png"
    )


def parse_args(argv: list[str] | None = None) -> Namespace:
    flags = cli.Parser("python tests/measure/claims.py", description=__doc__.splitlines()[0], formatter_class=cli.Help)
    add = flags.add_argument
    add("data", choices=("digits", "faces"), help="which claims")
    add("--faces", metavar="PATH", help="a zip or folder of pictures, or the word drawn, as in vanilla_vae_celeba.py")
    add("--noise", type=cli.number(float, 0, above=True), default=0.5, help="standard deviation of the noise to remove")
    add("--epochs", type=cli.positive_int, help="epochs of missing runs (default: each script's own)")
    add("--limit", type=cli.positive_int, metavar="N", help="train those on the first N images only (a quick try)")
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="auto: the accelerator, if any")
    add("--data-dir", type=Path, default=Path("data"), help="folder of the data sets, downloaded if absent")
    add("--images-dir", type=Path, default=Path("images"), help="folder for the figures")
    add("--runs-dir", type=Path, default=Path("runs"), help="folder for the runs")
    return flags.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    files.check_writable(args.images_dir)
    files.check_writable(args.runs_dir / "claims")
    (claims_of_digits if args.data == "digits" else claims_of_faces)(args)


if __name__ == "__main__":
    cli.run(main)
