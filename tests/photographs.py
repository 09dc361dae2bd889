"""Folders of images like those that people have, cut out of the photographs that scikit-learn ships."""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

CLASSES = ("flower", "roof", "sky", "wall")


@cache
def photographs() -> dict[str, np.ndarray]:
    """One region [H,W,3] uint8 for each class."""
    china, flower = load_sample_images().images
    return {
        "flower": flower[60:360, 120:560],
        "roof": china[120:300, 60:600],
        "sky": china[:110, :],
        "wall": china[300:420, :],
    }


def crop(name: str, seed: int, side: int) -> Image.Image:
    """A square of the class, somewhere in its region."""
    region, rng = photographs()[name], np.random.default_rng(seed)
    cut = min(side, region.shape[0])
    top, left = (int(rng.integers(0, size - cut + 1)) for size in region.shape[:2])
    return Image.fromarray(region[top : top + cut, left : left + cut]).resize((side, side))


def write(folder: Path, count: int, *, side: int = 48, suffix: str = ".png", seed: int = 0) -> None:
    """So many images of each class, in ImageFolder layout."""
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for k in range(count):
            image = crop(name, seed + 1000 * label + k, side)
            image.save(folder / name / f"{k:03}{suffix}", quality=92) if suffix == ".jpg" else image.save(
                folder / name / f"{k:03}{suffix}"
            )
