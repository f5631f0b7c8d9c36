"""How fast the project is, beside the way the same thing is usually written.

    python tests/benchmark.py                 the table below, in under five minutes on 2 cores
    python tests/benchmark.py --json FILE     also as JSON
    python tests/benchmark.py --device cuda   on a GPU

Ours and the usual way alternate in one process, so that a machine whose speed drifts slows both; the ratio is the
median over the rounds, with its range. "The usual way" is what tutorials and well-known repositories show, written as
a competent user would: a torchvision Dataset with ToTensor, a DataLoader with one worker a core, fp32, the fused
AdamW, and `.item()` every step for the progress line; for faces a Dataset that decodes, crops, resizes and flips each
picture with Pillow in every epoch. Networks, losses and batch sizes are ours on both sides.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import vanilla_ae  # noqa: E402
import vanilla_vae_celeba  # noqa: E402
import vanilla_vae_mnist  # noqa: E402
from common import celeba, training  # noqa: E402
from common.data import load_digits, random_flip, select, to_float  # noqa: E402
from common.drawn_faces import draw_faces  # noqa: E402

ROUNDS = 5
DIGITS = 10 * vanilla_ae.BATCH_SIZE
FACES = 1200
FULL_CELEBA = 202_599


def ratios(ours, usual, rounds: int = ROUNDS) -> dict:
    """Seconds of both, in turn, and the usual's over ours; the first round warms up and isn't counted."""
    pairs = [(ours(), usual()) for _ in range(rounds + 1)][1:]
    found = sorted(slow / fast for fast, slow in pairs)
    return {
        "ours": median(fast for fast, _ in pairs),
        "usual": median(slow for _, slow in pairs),
        "ratio": median(found),
        "range": [found[0], found[-1]],
    }


def fit_seconds(build, loss, images, device, folder, script, hidden=False, augment=None) -> float:
    """An epoch of the project's own loop on `images`, with a script's defaults, without the checkpoint's time."""
    arguments = Namespace(
        epochs=1, batch_size=script.BATCH_SIZE, lr=script.LEARNING_RATE, seed=0, resume=False, run_dir=folder
    )
    run = training.Run("benchmark", arguments, device, training.choose_precision("auto", device))
    model = build().to(device)
    matrices = model.hidden_weights() if hidden else ()
    with open(os.devnull, "w") as nowhere:
        sys.stdout, before = nowhere, sys.stdout
        try:
            return training.fit(model, loss, images, run, matrices, augment)[0]["seconds"]
        finally:
            sys.stdout = before


def usual_seconds(build, loss, dataset: Dataset, device, script) -> float:
    """An epoch the usual way."""
    model = build().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=script.LEARNING_RATE, fused=True)
    loader = DataLoader(dataset, script.BATCH_SIZE, shuffle=True, num_workers=os.cpu_count())
    began, shown = time.perf_counter(), 0.0
    for images, _ in loader:
        optimizer.zero_grad()
        mean = loss(model, images.to(device))["loss"].mean()
        mean.backward()
        optimizer.step()
        shown += mean.item()
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

    def __getitem__(self, index: int):
        return self.transform(Image.open(self.paths[index]).convert("RGB")), 0


def write_aligned_faces(folder: Path, count: int) -> None:
    """Drawn faces as JPEG files of CelebA's names and size."""
    for number, face in enumerate(draw_faces(count, 148).images, start=1):
        canvas = np.pad(face, ((35, 35), (15, 15), (0, 0)), mode="edge")
        Image.fromarray(canvas).save(folder / f"{number:06}.jpg", quality=90)


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
        celeba.load_faces(str(folder), Path(cache), progress=False, echo=lambda line: None)
        return time.perf_counter() - began


def arithmetic(images, device) -> dict:
    """The FLOP/s of the autoencoder's whole training step, optimizers included, over those of a large product."""
    kind = torch.bfloat16 if training.choose_precision("auto", device) == "bf16" else torch.float32
    left, right = torch.randn(2048, 2048, device=device).to(kind), torch.randn(2048, 2048, device=device).to(kind)
    model = vanilla_ae.Autoencoder(vanilla_ae.LATENT_DIM).to(device)
    optimizers = training.make_optimizers(model, model.hidden_weights(), vanilla_ae.LEARNING_RATE)

    def step():
        with torch.autocast(device.type, torch.bfloat16, enabled=kind == torch.bfloat16):
            loss = vanilla_ae.loss(model, to_float(images[: vanilla_ae.BATCH_SIZE].to(device)))["loss"].mean()
        model.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()

    def seconds(function) -> float:
        began = time.perf_counter()
        function()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter() - began

    step()
    with FlopCounterMode(display=False) as counter:
        step()
    rounds = [(seconds(step), seconds(lambda: left @ right)) for _ in range(30)]
    achieved = counter.get_total_flops() / median(first for first, _ in rounds)
    peak = 2 * 2048**3 / median(second for _, second in rounds)
    return {"achieved": achieved, "peak": peak, "share": achieved / peak}


def growth(images, device, folder) -> dict:
    """Seconds an image in epochs of a quarter, a half and all of the data; the middle of three, in turn."""
    build = functools.partial(vanilla_ae.Autoencoder, vanilla_ae.LATENT_DIM)
    parts = [images[: len(images) // share] for share in (4, 2, 1)]
    times = [
        [
            fit_seconds(build, vanilla_ae.loss, part, device, folder, vanilla_ae, hidden=True) / len(part)
            for part in parts
        ]
        for _ in range(3)
    ]
    middle = [median(column) for column in zip(*times, strict=True)]
    return {"microseconds_per_image": [1e6 * value for value in middle], "spread": max(middle) / min(middle) - 1}


def peak_memory(*command: object) -> float:
    """The peak resident size of a process, in GB."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, command)], capture_output=True, text=True, check=True)
    return int(done.stdout) * (1 if sys.platform == "darwin" else 1024) / 1e9


def memory(folder: Path, device: str) -> dict:
    """Each script for an epoch; faces with a cache of CelebA's full size, every picture of which is read."""
    common = ("--epochs", 1, "--images-dir", folder / "images", "--data-dir", ROOT / "data", "--device", device)
    sizes = {
        name: peak_memory(sys.executable, ROOT / f"{name}.py", *common, "--run-dir", folder / name)
        for name in ("vanilla_ae", "vanilla_vae_mnist")
    }
    faces = folder / "all.uint8"
    with open(faces, "wb") as file:
        file.truncate(FULL_CELEBA * 64 * 64 * 3)
    code = (
        "import sys, torch; from common import training; import vanilla_vae_celeba as script; "
        "from argparse import Namespace; from pathlib import Path; "
        f"images = torch.from_file({str(faces)!r}, size={FULL_CELEBA * 64 * 64 * 3}, dtype=torch.uint8)"
        f".view({FULL_CELEBA}, 64, 64, 3).permute(0, 3, 1, 2); "
        "order = torch.randperm(len(images)); any(images[part].numel() == 0 for part in order.split(512)); "
        "args = Namespace(epochs=1, batch_size=64, lr=1e-3, seed=0, resume=False, "
        f"run_dir=Path({str(folder / 'faces')!r})); "
        f"device = torch.device({device!r}); "
        "run = training.Run('benchmark', args, device, training.choose_precision('auto', device)); "
        "training.fit(script.VariationalAutoencoder(128, 64).to(device), script.loss, images[:640], run)"
    )
    sizes["vanilla_vae_celeba"] = peak_memory("env", f"PYTHONPATH={ROOT}", sys.executable, "-c", code)
    return sizes


def first_step_seconds(folder: Path) -> float:
    """From the start of the process to the end of the first training step, the checkpoint after it included."""
    flags = ("--limit", vanilla_ae.BATCH_SIZE, "--epochs", 1, "--run-dir", folder / "first", "--images-dir", folder)
    command = [sys.executable, "-u", ROOT / "vanilla_ae.py", "--data-dir", ROOT / "data", *flags]
    began = time.perf_counter()
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("epoch 1/1"):
                seconds = time.perf_counter() - began
                process.kill()
                return seconds
    raise RuntimeError("vanilla_ae.py ended before its first step")


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    flags.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where to compute")
    args = flags.parse_args()
    began = time.perf_counter()
    device = training.choose_device(args.device)
    torch.set_flush_denormal(True)
    found: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        train, _ = load_digits("MNIST", ROOT / "data")
        images = train.images.to(device)
        from torchvision import datasets, transforms

        usual_digits = torch.utils.data.Subset(
            datasets.MNIST(ROOT / "data", transform=transforms.ToTensor()), range(DIGITS)
        )
        for name, script, model in (
            ("AE on MNIST, training", vanilla_ae, vanilla_ae.Autoencoder),
            ("VAE on MNIST, training", vanilla_vae_mnist, vanilla_vae_mnist.VariationalAutoencoder),
        ):
            build = functools.partial(model, script.LATENT_DIM)
            found[name] = ratios(
                lambda build=build, script=script: fit_seconds(
                    build, script.loss, images[:DIGITS], device, folder, script, hidden=True
                ),
                lambda build=build, script=script: usual_seconds(build, script.loss, usual_digits, device, script),
            )

        pictures = folder / "pictures"
        pictures.mkdir()
        write_aligned_faces(pictures, FACES)
        faces = celeba.load_faces(str(pictures), folder / "cache", progress=False, echo=lambda line: None)
        mapped = select(faces.images, torch.ones(len(faces.images)).bool()).to(device)
        build = functools.partial(vanilla_vae_celeba.VariationalAutoencoder, vanilla_vae_celeba.LATENT_DIM, 64)
        ours = functools.partial(
            fit_seconds,
            lambda: build().to(memory_format=torch.channels_last),
            vanilla_vae_celeba.loss,
            mapped,
            device,
            folder,
            vanilla_vae_celeba,
            augment=random_flip,
        )
        usual = functools.partial(
            usual_seconds, build, vanilla_vae_celeba.loss, UsualFaces(pictures), device, vanilla_vae_celeba
        )
        found["faces, an epoch after the first"] = ratios(ours, usual, rounds=3)
        found["faces, preparation"] = ratios(lambda: prepare_ours(pictures), lambda: prepare_usual(pictures))
        found["start to first step"] = {"seconds": median(first_step_seconds(folder) for _ in range(3))}
        found["arithmetic"] = arithmetic(images, device)
        found["growth"] = growth(images, device, folder)
        found["memory"] = memory(folder, args.device)

    print("| row | ours | the usual way | ratio (range) |\n|---|---|---|---|")
    for name, row in found.items():
        if "ratio" in row:
            low, high = row["range"]
            seconds = f"{row['ours']:.2f} s | {row['usual']:.2f} s"
            print(f"| {name} | {seconds} | **{row['ratio']:.1f}** ({low:.1f}-{high:.1f}) |")
    rate = found["arithmetic"]
    print(f"| start to first training step | {found['start to first step']['seconds']:.1f} s | | |")
    print(
        f"| arithmetic of the AE's step | {rate['achieved'] / 1e9:,.0f} GFLOP/s | matrix product "
        f"{rate['peak'] / 1e9:,.0f} GFLOP/s | {rate['share']:.0%} |"
    )
    per_image = ", ".join(f"{value:.1f}" for value in found["growth"]["microseconds_per_image"])
    print(f"| growth: an image at 1/4, 1/2, all of MNIST | {per_image} µs | | {found['growth']['spread']:.0%} apart |")
    for name, size in found["memory"].items():
        print(f"| peak memory, `{name}.py` | {size:.2f} GB | | |")
    print(f"\n{time.perf_counter() - began:.0f} s on {os.cpu_count()} cores, {device}, PyTorch {torch.__version__}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
