"""The CUDA path of the whole project, checked and timed on one GPU in at most ten minutes. For Linux.

    python tests/measure/device_check.py > check.md        everything, with tables for the README
    python tests/measure/device_check.py --device cpu      a rehearsal without a GPU, with tiny sizes

Each part is a process of its own: one that fails, hangs or breaks its CUDA context doesn't stop the others, and none
need undo what it sets. The exit code is 1 if any failed.
"""

import argparse
import contextlib
import copy
import itertools
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from tqdm import tqdm

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import vanilla_ae as AE  # noqa: E402
import vanilla_vae_celeba as FACES  # noqa: E402
import vanilla_vae_mnist as VAE  # noqa: E402
from common import training  # noqa: E402
from common.data import celeba, digits  # noqa: E402

LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
HERE = argparse.Namespace()  # the arguments; tiny: for a rehearsal; folder: for the scripts' runs
WARNINGS: set[str] = set()  # that the scripts printed
# Changes for `launch`. Alone, a process exchanges with itself what several would if its number passes for more than 1.
PLAIN = "script.report = lambda *_: None\n"
LITTLE_MEMORY = "import torch; torch.cuda.set_per_process_memory_fraction(2**28 / torch.cuda.mem_get_info()[1])\n"
ALONE_AS_MANY = f"""{PLAIN}from common.training import processes
one = type("One", (int,), {{"__gt__": lambda _, other: other == 1}})(1)
processes.world = lambda: one if processes.dist.is_initialized() else 1
"""


def row(*cells, header=False):
    print("\n" * header + f"| {' | '.join(map(str, cells))} |" + f"\n|{'---|' * len(cells)}" * header, flush=True)


def train(script, watch, where="", precision="fp32", layout="channels_last", size=16):
    """What `watch(epoch)` finds: each of its yields is a step of the script's own loop."""
    faces, where, width = script is FACES, torch.device(where or HERE.device), 32 if HERE.tiny else 64
    celeba.DRAWN_COUNTS = 256 if HERE.tiny else 2048, 1, 1
    data = celeba.load_faces("drawn", ROOT, width)[:2] if faces else digits.load_digits("MNIST", ROOT / "data")[:1]
    flags = ["--precision", precision, "--batch-size", str(size), *(["--size", str(width)] if faces else [])]
    args = script.parse_args(flags)
    count = (256 if HERE.tiny else len(data[0].images)) // size * size

    class Watched(training.Epoch):
        def batches(self, images, batch_size):
            passes, self.shown = super().batches, float("inf")  # so that `record` doesn't read numbers
            endless = (batch for _ in itertools.count() for batch in passes(images, batch_size))
            for _ in watch(self):
                yield next(endless)

    training.device.set_up(where)
    training.memory_format = training.device.memory_format = lambda _: LAYOUTS[layout]
    training.device.thread_counts = lambda: [torch.get_num_threads()]
    with contextlib.redirect_stdout(None):
        run = training.Run(script.SCRIPT, args, where)
    run.epochs = lambda model, optimizer, data: [Watched(run, 0, model.train(), optimizer, tqdm(disable=True))]
    script.fit(run, args, *(part.first(count) for part in data))
    return run.found


def launch(script, name, *flags, where="", change="", processes=0):
    """Start a script as a user does, in a folder of its own, or with a `change`: statements after its import."""
    data = ("--data-dir", HERE.folder, "--faces", HERE.faces) if script is FACES else ("--data-dir", ROOT / "data")
    own = ("--run-dir", HERE.folder / name / "run", "--images-dir", HERE.folder / name / "images")
    flags = (*data, *own, "--device", where or HERE.device, *flags)
    if HERE.tiny:
        change += "from common.data import celeba; celeba.DRAWN_COUNTS = (100, 20, 100)\n"
        flags = ("--limit", 256, "--epochs", 3, *(("--size", 32) if script is FACES else ()), *flags)
    code = f"import {script.SCRIPT} as script\n{change}script.cli.run(script.main)"
    words = [sys.executable, *(["-c", code] if change else [f"{script.SCRIPT}.py"]), *map(str, flags)]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "--no-python"]
    words = [sys.executable, *launcher, *words] if processes else words
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(job, code=0):
    """What a job printed; it must exit with this code."""
    output, errors = job.communicate()
    WARNINGS.update(re.findall(r"\w*Warning\b.*", output + errors))
    assert job.returncode == code, f"exit code {job.returncode}: {re.findall('error: .*', errors) or errors[-600:]}"
    return output + errors


def history(name):
    return [json.loads(line) for line in (HERE.folder / name / "run/metrics.jsonl").read_text().splitlines()]


def agreement():
    """Relative distances from the CPU's fp32: TF32 would be at 1e-3. And how often the host waits in two steps."""

    def flat(tensors):
        return torch.cat([tensor.detach().cpu().flatten() for tensor in tensors])

    def watch(epoch):
        weights, generator, found, state = [*epoch.model.parameters()], torch.Generator().manual_seed(1), [], start
        for _ in range(2):
            before = flat(weights)
            for weight in weights:
                weight.grad = torch.empty_like(weight).copy_(torch.randn(weight.shape, generator=generator))
            epoch.optimizer.step()
            found.append(flat(weights) - before)
            state = state or copy.deepcopy((epoch.model.state_dict(), epoch.optimizer.state_dict()))
            epoch.model.load_state_dict(state[0])
            epoch.optimizer.load_state_dict(copy.deepcopy(state[1]))
        usual = torch.rand, torch.randn_like  # for one step, the same flips and noise on all devices
        torch.rand = lambda *shape, device: torch.randn(shape, generator=generator).to(device)
        torch.randn_like = lambda x: torch.randn(x.shape, generator=generator).to(x)
        yield
        torch.rand, torch.randn_like = usual
        found.append(flat(weight.grad for weight in weights))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield from [None] * 2
        epoch.run.found = found, state, sum("synchronizing CUDA" in str(each.message) for each in caught)

    where, bad, size = training.device.choose_device(HERE.device), False, 8 if HERE.tiny else 64
    print(f"\n{'CPU' if HERE.tiny else torch.cuda.get_device_name()}, PyTorch {torch.__version__}")
    training.device.set_up(where)
    row("operation", "error", header=True)
    for operation, *both in (torch.matmul, (512, 784), (784, 512)), (torch.conv2d, (8, 64, 32, 32), (96, 64, 3, 3)):
        tensors = [torch.randn(shape) for shape in both]
        true, found = (operation(*(tensor.to(to) for tensor in tensors)).cpu() for to in (torch.double, where))
        row(operation.__name__, f"{(error := ((found - true).norm() / true.norm()).item()):.0e}")
        bad |= error > 1e-5
    if not HERE.tiny:
        torch.cuda.set_sync_debug_mode("warn")
    row("script", "layout", "precision", "a step", "one from the CPU's state", "gradient", "waits", header=True)
    for script in (AE, VAE, FACES):
        start = None
        expected, start, _ = train(script, watch, "cpu", size=size)
        for layout, precision in itertools.product(LAYOUTS if script is FACES else ["channels_last"], ("fp32", "bf16")):
            found, _, waits = train(script, watch, "", precision, layout, size)
            errors = [((each - true).norm() / true.norm()).item() for each, true in zip(found, expected, strict=True)]
            row(script.SCRIPT, layout, precision, *(f"{error:.0e}" for error in errors), waits)
            bad |= not (max(errors[:2]) < 1e-3 and errors[2] < (1e-4 if precision == "fp32" else 0.1) and not waits)
    assert not bad, "operations differ by over 1e-5, steps 1e-3, gradients 1e-4 (bf16: 0.1), or the host waits"


def scripts():
    """The scripts as a user runs them: the seconds of their epochs, and of the whole with its figures and page."""
    row("command", "test scores", "training", "whole", "images per second", "precision", header=True)
    for script in (AE, VAE, FACES):
        began = time.perf_counter()
        finish(launch(script, script.SCRIPT))
        whole = time.perf_counter() - began
        results = json.loads((HERE.folder / script.SCRIPT / "run/results.json").read_text())
        scores, command = results["test"], f"`{script.SCRIPT}.py` on {results['dataset']}"
        test = ", ".join(f"{term} {value:.4g}" for term, value in scores.items())
        speed = f"{results['images_per_second']:,}", results["precision"]
        row(command, test, f"{results['seconds']:.1f} s", f"{whole:.0f} s", *speed)
        if not HERE.tiny:  # as on a CPU
            assert script is not AE or 0.0295 < scores["mse"] < 0.0322 and scores["knn"] > 0.86
            assert script is not VAE or 129 < scores["neg_elbo_grey"] < 133


def errors():
    """Errors end in one line and exit code 2; torchrun adds its own."""
    jobs = {"sees none here": launch(AE, "absent", where="mps")}
    if not HERE.tiny:
        jobs["out of memory"] = launch(AE, "memory", "--batch-size", 60_000, change=LITTLE_MEMORY)
        jobs["exceeds the GPUs"] = launch(AE, "crowd", processes=torch.cuda.device_count() + 1)
    row("error", header=True)
    for words, job in jobs.items():
        text = finish(job, 1 if (torchrun := "--no-python" in job.args) else 2)
        row(next(line for line in text.splitlines() if "error: " in line))
        assert words in text and "Signal 9" not in text and (torchrun or "Traceback" not in text), text[-600:]


def processes():
    """The loss of one process, of one under torchrun that exchanges with itself, and of two on the CPU: the same."""
    flags = ("--precision", "fp32", "--epochs", 2, "--batch-size", 250, "--limit", 500 if HERE.tiny else 20_000)
    jobs = {"one": launch(AE, "one", *flags, change=PLAIN)}
    jobs["one, torchrun"] = launch(AE, "one, torchrun", *flags, change=ALONE_AS_MANY, processes=1)
    jobs["two on the CPU"] = launch(AE, "two on the CPU", *flags, change=PLAIN, where="cpu", processes=2)
    row("processes", "loss, epoch 1", "epoch 2", header=True)
    for name, job in jobs.items():
        finish(job)
        losses, expected = ([line["loss"] for line in history(each)] for each in (name, "one"))
        row(name, *(f"{loss:.3f}" for loss in losses))
        most = 5e-3 if name == "two on the CPU" else 1e-5  # it rounds differently, and training enlarges that
        assert all(abs(loss / true - 1) < most for loss, true in zip(losses, expected, strict=True))


def resuming():
    """A run of the faces is stopped on the device, continues on the CPU, and then on the device again."""
    flags = ("--ae", "--precision", "fp32", "--size", 32, "--limit", 100 if HERE.tiny else 2000)
    job = launch(FACES, "moved", *flags, "--epochs", 500, change=PLAIN)
    any(line.startswith("epoch 2/") for line in job.stdout)  # reads so far
    job.send_signal(signal.SIGTERM)
    finish(job, 143)
    for epochs, where in enumerate(("cpu", "cpu", HERE.device), 1 + (before := len(history("moved")))):
        finish(launch(FACES, "moved", *flags, "--resume", "--epochs", epochs, change=PLAIN, where=where))
    errors = [line["valid_mse"] for line in history("moved")[before - 1 :]]
    row("", "stopped", "on the CPU", "on the CPU", "on the device", header=True)
    row("MSE", *(f"{error:.5f}" for error in errors))
    assert all(after < 1.05 * before for before, after in itertools.pairwise(errors))


def speeds():
    """Milliseconds per step, and those of them in which the GPU works; on a CPU, operations."""

    def watch(epoch):
        times = []
        for count in (5, *([2 if HERE.tiny else 20] * 3)):
            began = time.perf_counter()
            yield from [None] * count
            wait()
            times.append(1000 * (time.perf_counter() - began) / count)
        with torch.profiler.profile(activities=[getattr(torch.profiler.ProfilerActivity, kind)]) as profiled:
            yield from [None] * 2
            wait()
        kernels = [e for e in profiled.events() if e.device_type.name == kind and not e.is_user_annotation]
        busy = sum(e.time_range.elapsed_us() for e in kernels) / 2000
        epoch.run.found = sorted(times[1:])[1], len(kernels) // 2, busy

    wait, kind = (lambda: None, "CPU") if HERE.tiny else (torch.cuda.synchronize, "CUDA")
    sizes = [(AE, 128), (AE, 512), (AE, 2048), (VAE, 512), *((FACES, size) for size in (64, 128, 256, 512, 1024))]
    row("script", "batch", "layout", "precision", "ms per step", "images/s", "launches", "GPU busy, ms", header=True)
    sizes = sizes[:1] if HERE.tiny else sizes
    for (script, size), layout, precision in itertools.product(sizes, LAYOUTS, ("fp32", "bf16")):
        if script is FACES or layout == "channels_last":
            ms, launches, busy = train(script, watch, "", precision, layout, size)
            cells = f"{ms:.2f}", f"{1000 * size / ms:,.0f}", launches, f"{busy:.2f}"
            row(script.SCRIPT, size, layout, precision, *cells)


PARTS = {"agreement": 100, "scripts": 260, "errors": 60, "processes": 80, "resuming": 90, "speeds": 290}  # seconds


def work(name):
    """The process of a part."""
    os.setsid()
    try:
        globals()[name]()
        assert not WARNINGS, f"the scripts print warnings: {sorted(WARNINGS)}"
    except Exception as error:
        print(f"\n**failed**: {type(error).__name__}: {' '.join(str(error).split())[-600:]}", flush=True)
        raise


def main():
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    flags.add_argument("--faces", type=os.path.abspath, help="a zip or folder to train on; otherwise drawn faces")
    flags.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="all by default")
    flags.parse_args(namespace=HERE)
    began, failed, folder = time.perf_counter(), [], tempfile.TemporaryDirectory()
    HERE.tiny, HERE.folder, HERE.faces = HERE.device == "cpu", Path(folder.name), HERE.faces or "drawn"
    for name in HERE.parts:
        start = time.perf_counter()
        limit = 600 if HERE.tiny else min(PARTS[name], max(590 - (start - began), 0))
        print(f"\n## {name.capitalize()}\n\n{globals()[name].__doc__}", flush=True)
        process = multiprocessing.get_context("fork").Process(target=work, args=(name,))
        process.start()
        process.join(limit)
        late = ", **failed**: it takes longer" * process.is_alive()
        with contextlib.suppress(ProcessLookupError):  # what the part has started, too; torchrun ends its processes
            os.killpg(process.pid, signal.SIGTERM)
        process.join()
        failed += [name] if process.exitcode else []
        print(f"\n({time.perf_counter() - start:.0f} s{late})", flush=True)
    print(f"\n{len(HERE.parts)} parts in {time.perf_counter() - began:.0f} s; failed: {', '.join(failed) or 'none'}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
