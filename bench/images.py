"""Memory of an evaluation on a folder of photographs at 224×224, against their number.

    python bench/images.py --images 50000 --scratch DIR

Every image is a JPEG of its own, a random crop of the photographs that scikit-learn and, where it is installed,
scikit-image ship: 13% training images, of which 5,000 at most search for r, the others the test set, all of which the
network and the vote label. The command is the user's, the preset `imagenet-first-look`: decode, train a small network
for an epoch, learn r, attack four examples, briefly, label, write the report. Memory is read every half second from
/proc: anonymous pages are what the process holds of its own (RssAnon), and with its workers, shared pages counted once
(Pss_Anon); RssFile is what it has touched of mapped files, which the system may drop at any time. VmHWM, the most that
the kernel has seen of all of it, is summed over all processes that ever were, shared pages counted each time.
Needs 165 KB of disk an image. Writes a file in bench/results.
"""

import argparse
import contextlib
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

SIDE = 224
TRAINING = 0.13  # of the images
SHIPPED = (
    "astronaut",
    "brick",
    "camera",
    "chelsea",
    "coffee",
    "grass",
    "gravel",
    "hubble_deep_field",
    "rocket",
)
NETWORK = """import torch
from torch import nn


def make():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
    return nn.Sequential(body, nn.Linear(128, CLASSES))
"""
SETTINGS = (
    "data.validation={validation}",
    "data.test={test}",
    "model.train=true",
    "train.point.epochs=1",
    "length.r_max=0.06",
    "length.curve_max=0",
    "vote.seeds=[0]",
    "protocol.examples=4",
    "protocol.targets=1",
    "checks.examples=1",
    'attacks.names=["T-FGSM"]',
    "attacks.settings.T-RegionCW={steps=8, points=4, votes=24}",
)


def photographs() -> list[np.ndarray]:
    """Colour photographs [H,W,3] uint8."""
    found = list(load_sample_images().images)
    with contextlib.suppress(ImportError):
        from skimage import data

        found += [np.atleast_3d(getattr(data, name)()) for name in SHIPPED]
    return [np.broadcast_to(photo, (*photo.shape[:2], 3)) for photo in found]


def make_folder(root: Path, count: int) -> tuple[int, int]:
    """`count` images in ImageFolder layout, a class a photograph; how many are for training, and for the test."""
    photos, rng = photographs(), np.random.default_rng(0)
    training = round(TRAINING * count)
    for k in range(count):
        label = k % len(photos)
        top, left = (int(rng.integers(0, size - SIDE + 1)) for size in photos[label].shape[:2])
        crop = photos[label][top : top + SIDE, left : left + SIDE]
        folder = root / "photos" / ("train" if k < training else "val") / f"class{label:02}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(crop)).save(folder / f"{k:06}.jpg", quality=60)
    return training, count - training


def tree(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += tree(int(child))
    return found


def resident(pid: int, kind: str) -> int:
    file = "smaps_rollup" if kind.startswith("Pss") else "status"
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) * 1024
    return 0


def measure(count: int, scratch: Path) -> dict[str, Any]:
    """Peaks over the run, bytes: of the process, of it with its workers, and the sum of every process's own peak."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        root = Path(name)
        training, test = make_folder(root, count)
        classes = len(list((root / "photos" / "val").iterdir()))
        (root / "small.py").write_text(NETWORK.replace("CLASSES", str(classes)))
        validation = min(5000, training // 2)
        settings = [setting.replace("{test}", str(test)) for setting in SETTINGS]
        settings = [setting.replace("{validation}", str(validation)) for setting in settings]
        words = ["--dataset", "photos", "--model", "small:make", "--quiet"]
        words += [word for setting in settings for word in ("--set", setting)]
        environment = {
            **os.environ,
            "XDG_CACHE_HOME": str(root / "cache"),
            "PYTHONPATH": os.pathsep.join(
                [str(root), str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")]
            ),
        }
        command = [sys.executable, "-m", "rcfast.eval", "--preset", "imagenet-first-look", *words]
        start, peaks, most = time.perf_counter(), {"own": 0, "with workers": 0, "mapped": 0}, {}
        run = subprocess.Popen(command, cwd=root, env=environment)
        while run.poll() is None:
            with contextlib.suppress(OSError, ValueError):  # one of them has just ended
                pids = tree(run.pid)
                own, all_of_it = resident(run.pid, "RssAnon"), sum(resident(pid, "Pss_Anon") for pid in pids)
                most |= {pid: max(most.get(pid, 0), resident(pid, "VmHWM")) for pid in pids}
                now = {"own": own, "with workers": all_of_it, "mapped": resident(run.pid, "RssFile")}
                peaks = {key: max(peaks[key], now[key]) for key in peaks}
            time.sleep(0.5)
        if run.returncode:
            sys.exit(f"rcfast.eval ended with code {run.returncode}")
        said = " ".join(f"--set {setting}" for setting in settings)
        return {
            "images": count,
            "settings": said,
            "processes": len(most),
            "seconds": round(time.perf_counter() - start),
            "peak_bytes": {**peaks, "sum of VmHWM": sum(most.values())},
        }


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--images", type=int, nargs="+", default=[5000, 50_000])
    options.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    given = options.parse_args()
    for count in given.images:
        need, free = 165_000 * count, shutil.disk_usage(given.scratch).free
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
