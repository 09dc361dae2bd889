"""Memory of an evaluation on a folder of photographs at 224×224, against their number.

    python bench/images.py --images 5000 50000 --scratch DIR

A fifth of the images are the test set, all others training images; they are crops of the photographs that scikit-learn
ships, 100 files of 240×240 linked under many names. The command is the user's: decode, train a small network for an
epoch, evaluate it and a vote on it, write the report. Memory is read every half second from /proc: RssAnon is
what the process holds of its own, RssFile what it has touched of mapped files, which the system may drop at any
time. Needs 150 KB of disk an image. Writes a file in bench/results.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

FILES, CLASSES, SIDE = 100, 10, 240
NETWORK = """import torch
from torch import nn


def make():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
    return nn.Sequential(body, nn.Linear(128, 10))
"""
SETTINGS = (
    "data.size=224",
    "model.train=true",
    "train.point.epochs=1",
    'defences=["point","region"]',
    "length.r=0.01",
    "length.curve_max=0",
    "length.r_max=0.01",
    "length.m=1",
    "vote.m=1",
    "vote.seeds=[0]",
    "vote.chunk=32",
    "protocol.examples=10",
)


def make_folder(root: Path, count: int) -> None:
    """`count` images in ImageFolder layout."""
    photographs, rng = load_sample_images().images, np.random.default_rng(0)
    for k in range(FILES):
        photo = photographs[k % 2]
        top, left = (int(rng.integers(0, size - SIDE)) for size in photo.shape[:2])
        Image.fromarray(photo[top : top + SIDE, left : left + SIDE]).save(root / f"{k}.jpg", quality=92)
    for k in range(count):
        folder = root / "photos" / ("val" if k % 5 == 4 else "train") / f"class{k // 5 % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        os.link(root / f"{k % FILES}.jpg", folder / f"{k:06}.jpg")


def tree(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += tree(int(child))
    return found


def resident(pid: int, kind: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) * 1024
    return 0


def measure(count: int, scratch: Path) -> dict[str, Any]:
    """Peaks over the run, bytes, of the process and of it with its workers."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        root = Path(name)
        make_folder(root, count)
        (root / "small.py").write_text(NETWORK)
        words = [word for setting in SETTINGS for word in ("--set", setting)]
        command = [
            sys.executable,
            "-m",
            "rcfast.eval",
            "--dataset",
            "photos",
            "--model",
            "small:make",
            "--quiet",
        ]
        paths = [str(root), str(Path(__file__).resolve().parent.parent)]
        environment = {
            **os.environ,
            "XDG_CACHE_HOME": str(root / "cache"),
            "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
        }
        start, peak = time.perf_counter(), {"own": 0, "with workers": 0, "mapped": 0}
        run = subprocess.Popen([*command, "--only", "table2,table3", *words], cwd=root, env=environment)
        while run.poll() is None:
            try:
                own = [resident(pid, "RssAnon") for pid in tree(run.pid)]
                now = {"own": own[0], "with workers": sum(own), "mapped": resident(run.pid, "RssFile")}
                peak = {key: max(peak[key], now[key]) for key in peak}
            except (OSError, ValueError):  # one of them has just ended
                pass
            time.sleep(0.5)
        if run.returncode:
            sys.exit(f"rcfast.eval ended with code {run.returncode}")
        return {"images": count, "seconds": round(time.perf_counter() - start), "peak_bytes": peak}


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--images", type=int, nargs="+", default=[5000, 50_000])
    options.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    given = options.parse_args()
    for count in given.images:
        need, free = 151_000 * count, shutil.disk_usage(given.scratch).free
        if need > free:
            sys.exit(
                f"--scratch {given.scratch}: {count} images need {need / 1e9:.1f} GB, {free / 1e9:.1f} are free"
            )
    rows = []
    for count in given.images:
        rows.append(measure(count, given.scratch))
        peak = {key: f"{value / 1e9:.2f} GB" for key, value in rows[-1]["peak_bytes"].items()}
        print(f"{count:,} images: {peak}, {rows[-1]['seconds']} s", flush=True)
    device = torch.device("cpu")
    results = {**common.header(device), "runs": rows}
    common.write(common.RESULTS / f"images-{common.slug(device)}.json", results)


if __name__ == "__main__":
    main()
