"""How fast the project is, compared with the usual way of writing the same thing.

    python tests/measure/benchmark.py                        the table, in about five minutes on 2 cores
    python tests/measure/benchmark.py --rows steps precision    some of its rows
    python tests/measure/benchmark.py --json FILE            also as JSON
    python tests/measure/benchmark.py --recipes digits20     well-known recipes against ours: see recipes.py
    python tests/measure/benchmark.py --device cuda          on a GPU, where our step is also compiled

Ours and the usual way alternate in one process, so that a drift in the machine's speed affects both; the ratio is the
median over the rounds, with its range. "The usual way" is that of tutorials and well-known repositories, written as
a competent user would: a torchvision Dataset with ToTensor, a DataLoader, fp32, contiguous layout, zero_grad, backward,
step, and `.item()` in every step for the progress line; for faces a Dataset that decodes, crops, resizes and flips each
picture in every epoch. The loader has as many workers as are fastest on 2 cores: none for digits, two for faces; with a
GPU, one per core. Networks, losses and batch sizes are the scripts' own on both sides; so are the optimizers' methods,
in PyTorch's own implementation on the usual side: for faces AdamW alone, since its Muon takes no convolutions.
"""

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import ModuleType

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from measure import recipes  # noqa: E402

import vanilla_ae  # noqa: E402
import vanilla_vae_celeba  # noqa: E402
import vanilla_vae_mnist  # noqa: E402
from common import cli, files, training  # noqa: E402
from common.data import faces as face_data  # noqa: E402
from common.data.digits import load_digits  # noqa: E402
from common.data.drawn_faces import draw_faces  # noqa: E402
from common.data.tensors import random_flip, to_float  # noqa: E402
from common.training.device import choose_device, faster_precision, set_up  # noqa: E402
from common.training.optimizer import hidden_weights  # noqa: E402

ROUNDS = 5
STEPS = 40  # of digits per round
FACES = 1920
COPIES = 4  # of each, when only their preparation is timed
LAPTOP = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
ROWS = ("steps", "preparation", "precision", "beside")


@dataclass(frozen=True)
class Case:
    """A script's model and how it is trained."""

    script: ModuleType
    build: Callable[[], nn.Module]
    augment: Callable[[Tensor], Tensor] | None = None


AE = Case(vanilla_ae, functools.partial(vanilla_ae.Autoencoder, vanilla_ae.LATENT_DIM))
VAE = Case(vanilla_vae_mnist, functools.partial(vanilla_vae_mnist.VariationalAutoencoder, vanilla_vae_mnist.LATENT_DIM))
FACE_VAE = Case(
    vanilla_vae_celeba,
    functools.partial(vanilla_vae_celeba.VariationalAutoencoder, vanilla_vae_celeba.LATENT_DIM, 64),
    random_flip,
)


def ratios(ours: Callable[[], float], usual: Callable[[], float], rounds: int = ROUNDS) -> dict:
    """Seconds of both, in turn, and the ratio of usual to ours; the first round warms up and isn't counted."""
    pairs = [(ours(), usual()) for _ in range(rounds + 1)][1:]
    found = sorted(slow / fast for fast, slow in pairs)
    return {
        "ours": median(fast for fast, _ in pairs),
        "usual": median(slow for _, slow in pairs),
        "ratio": median(found),
        "range": [found[0], found[-1]],
    }


def our_seconds(
    case: Case, images: Tensor, device: torch.device, folder: Path, precision: str = "auto", epochs: int = 2
) -> float:
    """Seconds of the last epoch of the scripts' own loop on `images` (N, C, S, S) uint8, without building and saving.

    The first epoch of a process compiles, and fills the allocator's cache.
    """
    script = case.script
    flags = {"epochs": epochs, "seed": 0, "lr": script.LEARNING_RATE, "precision": precision, "resume": False}
    arguments = Namespace(**flags, run_dir=folder, compile=device.type == "cuda")
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        run = training.Run("benchmark", arguments, device)
        model = case.build().to(device, memory_format=training.memory_format(device))
        step = run.prepare(model, script.loss, images[: script.BATCH_SIZE])
        optimizer = training.Optimizer(model, script.LEARNING_RATE, run.precision)
        for epoch in run.epochs(model, optimizer, images, script.BATCH_SIZE, case.augment):
            for batch in epoch:
                terms = epoch.mean(step(batch))
                optimizer.zero_grad()
                terms["loss"].backward()
                optimizer.step()
    return run.history[-1]["seconds"]


def usual_optimizers(model: nn.Module, case: Case) -> list[torch.optim.Optimizer]:
    """PyTorch's own, with defaults for all but the learning rate."""
    hidden, lr = hidden_weights(model), case.script.LEARNING_RATE
    if any(weight.ndim != 2 for weight in hidden):
        hidden = []
    others = [parameter for parameter in model.parameters() if all(parameter is not matrix for matrix in hidden)]
    return [torch.optim.AdamW(others, lr), *([torch.optim.Muon(hidden, lr)] if hidden else [])]


def usual_seconds(case: Case, dataset: Dataset, workers: int, device: torch.device) -> float:
    """The seconds of an epoch the usual way."""
    model = case.build().to(device)
    optimizers = usual_optimizers(model, case)
    loader = DataLoader(
        dataset, case.script.BATCH_SIZE, shuffle=True, num_workers=workers, pin_memory=device.type == "cuda"
    )
    for _ in range(2):  # the second epoch counts, as in ours
        began, running = time.perf_counter(), 0.0
        for images, _ in loader:
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss = case.script.loss(model, images.to(device))["loss"].mean()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            running += loss.item()
    return time.perf_counter() - began


class UsualFaces(Dataset):
    """A folder of aligned pictures, each decoded, cropped, resized and flipped when it is asked for."""

    def __init__(self, folder: Path):
        from torchvision import transforms

        self.paths = sorted(folder.glob("*.jpg"))
        self.transform = transforms.Compose(
            [
                transforms.CenterCrop(148),
                transforms.Resize(64),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.open(self.paths[index]).convert("RGB")), 0


def write_aligned_faces(folder: Path, count: int) -> None:
    """Drawn faces as JPEG files of CelebA's names and size."""
    folder.mkdir()
    for number, face in enumerate(draw_faces(count, 148).images, start=1):
        canvas = np.pad(face, ((35, 35), (15, 15), (0, 0)), mode="edge")
        Image.fromarray(canvas).save(folder / f"{number:06}.jpg", quality=90)


def write_copies(folder: Path, target: Path) -> None:
    target.mkdir()
    for number, path in enumerate(sorted(folder.glob("*.jpg")) * COPIES, start=1):
        shutil.copy(path, target / f"{number:06}.jpg")


def prepare_usual(folder: Path) -> float:
    """Decode, crop and resize every picture on one core, with Pillow."""
    began = time.perf_counter()
    for path in sorted(folder.glob("*.jpg")):
        picture = Image.open(path).convert("RGB").crop((15, 35, 163, 183))
        np.asarray(picture.resize((64, 64), Image.Resampling.BILINEAR))
    return time.perf_counter() - began


def prepare_ours(folder: Path) -> float:
    with tempfile.TemporaryDirectory() as cache:
        began = time.perf_counter()
        face_data.load_faces(str(folder), Path(cache))
        return time.perf_counter() - began


def chosen_precision(case: Case, images: Tensor, device: torch.device) -> tuple[str, str]:
    """The precision that a run with --precision auto takes, and why."""
    model = case.build().to(device, memory_format=torch.channels_last)
    batch = to_float(images[: case.script.BATCH_SIZE].to(device))
    return faster_precision(functools.partial(case.script.loss, model), batch, device)


def precisions(device: torch.device, folder: Path) -> dict[str, dict]:
    """For each script: milliseconds per step in fp32 and bf16, alternating, and the choice of --precision auto."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for case, shape, steps in ((AE, (1, 28, 28), 20), (VAE, (1, 28, 28), 20), (FACE_VAE, (3, 64, 64), 3)):
        count = steps * case.script.BATCH_SIZE
        images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
        images = images.to(device, memory_format=torch.channels_last)
        seconds: dict[str, list[float]] = {"fp32": [], "bf16": []}
        began = time.perf_counter()
        for _ in range(ROUNDS):
            for precision, times in seconds.items():
                times.append(our_seconds(case, images, device, folder, precision))
            if time.perf_counter() - began > 20:  # bf16 without arithmetic of its own can take a hundred times as long
                break
        times = {precision: 1000 * median(times) / steps for precision, times in seconds.items()}
        chosen, _ = chosen_precision(case, images, device)
        found[case.script.SCRIPT] = {**times, "chosen": chosen, "cost": times[chosen] / min(times.values())}
    return found


def precisions_of_a_laptop(folder: Path) -> dict[str, dict]:
    """The same in a process limited to AVX2."""
    command = [sys.executable, __file__, "--rows", "precision", "--json", str(folder / "laptop.json")]
    subprocess.run(command, env=os.environ | LAPTOP, check=True, stdout=subprocess.DEVNULL)
    return json.loads((folder / "laptop.json").read_text())["precision"]


def beside_the_epochs(folder: Path, pictures: Path, device: torch.device) -> dict[str, dict]:
    """Seconds that each script with one epoch takes outside that epoch, and those of `import torch`."""

    def seconds(*command: object) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, *map(str, command)], check=True, capture_output=True)
        return time.perf_counter() - began

    found = {}
    for case in (AE, VAE, FACE_VAE):
        script = case.script.SCRIPT
        flags = [
            "--epochs",
            1,
            "--device",
            device.type,
            "--run-dir",
            folder / script,
            "--images-dir",
            folder / "images",
        ]
        if case is FACE_VAE:
            flags += ["--faces", pictures, "--data-dir", folder]
        else:
            flags += ["--data-dir", ROOT / "data"]
        pairs = []
        for _ in range(4):
            whole = seconds(ROOT / f"{script}.py", *flags)
            results = json.loads((folder / script / "results.json").read_text())
            pairs.append((whole - results["seconds"], seconds("-c", "import torch")))
        beside, start = (median(column) for column in zip(*pairs[1:], strict=True))  # the first prepares the faces
        found[script] = {"seconds": beside, "start": start}
    return found


def measure(rows: list[str], device: torch.device, folder: Path) -> dict[str, dict]:
    from torchvision import datasets, transforms

    found: dict[str, dict] = {}
    train, _ = load_digits("MNIST", ROOT / "data")
    images, few = train.images.to(device), STEPS * vanilla_ae.BATCH_SIZE
    pictures = folder / "pictures"
    write_aligned_faces(pictures, FACES)
    if "steps" in rows:
        cores = os.cpu_count() or 1
        workers = {"digits": 0, "faces": 2} if device.type == "cpu" else {"digits": cores, "faces": cores}
        usual_digits = Subset(datasets.MNIST(ROOT / "data", transform=transforms.ToTensor()), range(few))
        for name, case in (("AE", AE), ("VAE", VAE)):
            found[f"{name} on MNIST, {STEPS} training steps"] = ratios(
                functools.partial(our_seconds, case, images[:few], device, folder),
                functools.partial(usual_seconds, case, usual_digits, workers["digits"], device),
            )
        cached = face_data.load_faces(str(pictures), folder / "cache").images
        found[f"faces, an epoch of {FACES:,} after the first"] = ratios(
            functools.partial(our_seconds, FACE_VAE, cached.to(device), device, folder),
            functools.partial(usual_seconds, FACE_VAE, UsualFaces(pictures), workers["faces"], device),
            rounds=3,
        )
    if "preparation" in rows:
        write_copies(pictures, folder / "copies")
        found[f"faces, preparation of {COPIES * FACES:,}"] = ratios(
            functools.partial(prepare_ours, folder / "copies"), functools.partial(prepare_usual, folder / "copies")
        )
    if "precision" in rows:
        found["precision"] = precisions(device, folder)
        if device.type == "cpu" and not LAPTOP.items() <= os.environ.items():
            found["laptop"] = precisions_of_a_laptop(folder)
    if "beside" in rows:
        found["beside"] = beside_the_epochs(folder, pictures, device)
    return found


def show(found: dict[str, dict]) -> None:
    print("| row | ours | compared with | ratio |\n|---|---|---|---|")
    for name, row in found.items():
        if "ratio" in row:
            low, high = row["range"]
            seconds = f"{row['ours']:.2f} s | the usual way {row['usual']:.2f} s"
            print(f"| {name} | {seconds} | **{row['ratio']:.1f}** ({low:.1f}-{high:.1f}) |")
    for key, machine in (("precision", ""), ("laptop", ", limited to AVX2")):
        for script, row in found.get(key, {}).items():
            print(
                f"| `{script}.py`, per step{machine} | auto chooses {row['chosen']}: {row[row['chosen']]:.1f} ms | "
                f"fp32 {row['fp32']:.1f} ms, bf16 {row['bf16']:.1f} ms | {row['cost']:.2f} times the faster |"
            )
    for script, row in found.get("beside", {}).items():
        times = row["seconds"] / row["start"]
        print(f"| `{script}.py`, outside its epochs | {row['seconds']:.1f} s | `import torch` {row['start']:.1f} s "
              f"| {times:.1f} |")  # fmt: skip


def main() -> None:
    flags = cli.Parser(description=__doc__.splitlines()[0], formatter_class=cli.Help)
    flags.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="rows to measure (default: all)")
    flags.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    flags.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="the device to compute on")
    flags.add_argument("--recipes", nargs="*", metavar="GROUP", help="run recipes.py with these groups instead")
    args = flags.parse_args()
    if args.recipes is not None:
        recipes.main([*args.recipes, "--device", args.device])
        return
    if args.json:
        files.check_writable(args.json.parent)
    began = time.perf_counter()
    device = choose_device(args.device)
    set_up(device)  # as the scripts do; both sides benefit
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args.rows, device, Path(folder))
    show(found)
    machine = recipes.machine(device)
    seconds = time.perf_counter() - began
    print(f"\n{seconds:.0f} s on {machine}, PyTorch {torch.__version__}")
    if args.json:
        about = {"machine": machine, "torch": torch.__version__, "seconds": seconds}
        files.write_json(args.json, about | found)


if __name__ == "__main__":
    cli.run(main)
