"""What the benches share: where they run, fair timing, the model, and result files."""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# torch.compile's cache does not tell instruction sets apart, and code for one is wrong on another.
os.environ.setdefault(
    "TORCHINDUCTOR_CACHE_DIR",
    str(
        Path(tempfile.gettempdir())
        / f"rcfast-inductor-{os.getuid()}-{os.environ.get('ATEN_CPU_CAPABILITY', 'all')}"
    ),
)

import torch
from torch import nn

from rcfast import data, models, training
from rcfast.files import write_atomically
from rcfast.info import environment

BLOCKS = 5  # that a time is at least the median of; 1 in a dry run, whose times say nothing
RESULTS = Path(__file__).resolve().parent / "results"


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    facts = environment()
    return f"{facts['cpu']} {facts['threads']} threads {facts['torch_cpu_capability']}"


def slug(device: torch.device) -> str:
    return re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")


def commit() -> str | None:
    """The commit measured, marked where the tree has changes to code since."""
    root = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", root, *arguments], capture_output=True, text=True, check=True
        ).stdout

    try:
        changed = git(
            "status", "--porcelain", "--untracked-files=no", "--", "csrc", "rcfast", "bench/*.py"
        ).strip()
        return git("rev-parse", "--short=12", "HEAD").strip() + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def without_folders(text: str) -> str:
    """Result files carry no path of the machine they were made on: absolute paths shrink to the file's name."""
    return re.sub(r"(?<!\w)/(?:[^\s/]+/)*(?=\S)", "", text)


def header(device: torch.device) -> dict[str, Any]:
    arguments = map(without_folders, sys.argv[1:])
    return {
        "device": device_name(device),
        "commit": commit(),
        "command": " ".join(["python", f"bench/{Path(sys.argv[0]).name}", *arguments]),
        "date": time.strftime("%Y-%m-%d"),
        "environment": environment(),
    }


def short(name: torch.dtype | torch.memory_format) -> str:
    return str(name).removeprefix("torch.")


def write(path: Path, results: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(results, indent=1) + "\n").encode())


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(call: Callable[[], Any], device: torch.device, budget: float = 0.4) -> float:
    """Median seconds of one call, over blocks of calls that fill the budget, after a warm-up."""
    for _ in range(3):
        call()
    synchronise(device)
    start = time.perf_counter()
    call()
    synchronise(device)
    inner = max(1, int(0.02 / max(1e-7, time.perf_counter() - start)))
    blocks: list[float] = []
    stop = time.perf_counter() + budget
    while len(blocks) < BLOCKS or (BLOCKS > 1 and time.perf_counter() < stop):
        start = time.perf_counter()
        for _ in range(inner):
            call()
        synchronise(device)
        blocks.append((time.perf_counter() - start) / inner)
    return statistics.median(blocks)


def kernel_seconds(call: Callable[[], Any], launches: int = 20) -> float:
    """Seconds that a GPU takes for what ``call`` launches, without the host: the median of replays of many calls."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(launches):
            call()
    times = []
    for _ in range(15):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3 / launches)
    return statistics.median(times)


def paired(calls: dict[str, Callable[[], Any]], device: torch.device, rounds: int = 5) -> dict[str, float]:
    """Median seconds of each call, measured in turns, so that a drift of the machine meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(min(rounds, BLOCKS)):
        for name, call in calls.items():
            times[name].append(seconds(call, device, budget=0.15))
    return {name: statistics.median(values) for name, values in times.items()}


DATASETS = (
    "mnist, cifar10, digits, digits28 (the digits at MNIST's size, for its network), an .npz; "
    "auto: mnist where it is on disk, else digits28"
)


def enlarged(digits: data.Dataset) -> data.Dataset:
    """8x8 images three times as large with two empty pixels around: 28x28, as MNIST's network takes them."""

    def split(part: data.Split) -> data.Split:
        large = part.x.repeat_interleave(3, 2).repeat_interleave(3, 3)
        return data.Split(torch.nn.functional.pad(large, (2, 2, 2, 2)), part.y)

    parts = (split(part) for part in (digits.train, digits.validation, digits.test))
    return data.Dataset("digits28", *parts, digits.num_classes)


def dataset_and_model(
    name: str, root: Path | None, checkpoint: Path | None, device: torch.device
) -> tuple[data.Dataset, nn.Module, str]:
    """The data set and its trained network: from ``checkpoint``, or trained once and kept in the user's cache.

    ``name``: as DATASETS says.
    """
    if name == "auto":
        folder = root or os.environ.get("RCFAST_DATA")
        name = "mnist" if folder and (Path(folder) / "mnist.npz").is_file() else "digits28"
        if name != "mnist":
            where = f"no mnist.npz in {Path(folder).name}" if folder else "RCFAST_DATA names no folder"
            print(f"NOT MNIST ({where}): the embedded digits at its size, with its network", file=sys.stderr)
    dataset = enlarged(data.load("digits")) if name == "digits28" else data.load(name, root)
    if checkpoint is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rcfast" / "bench"
        checkpoint = cache / f"{dataset.name}-{dataset.fingerprint[:12]}.safetensors"
        if not checkpoint.is_file():
            network = models.for_dataset(dataset).to(device)
            training.fit(network, dataset.train, progress=True)
            cache.mkdir(parents=True, exist_ok=True)
            training.save_model(network, checkpoint, {"dataset": dataset.name})
    model, _ = training.load_model(checkpoint)
    return dataset, model.to(device).eval(), dataset.name


def table(title: str, columns: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [columns, *rows]
    ]
    return "\n".join([title, lines[0], "  ".join("-" * width for width in widths), *lines[1:], ""])
