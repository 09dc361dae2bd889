"""Pictures of many images side by side."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rcfast.eval.outputs.axes import GREY, ORANGE

CELL = 32  # pixels


def mosaic(images: np.ndarray, shown: np.ndarray, gap: int = 1) -> np.ndarray:
    """One RGBA picture [rows·(H+gap)+gap, columns·(W+gap)+gap, 4] of images [R,S,C,H,W] or vectors [R,S,D].

    What is not shown is transparent, gaps are a faint grey. Vectors become strips, other than three channels
    their mean, and small images grow to about CELL pixels.
    """
    if images.ndim == 3:
        images = images[:, :, None, None, :]
    if images.ndim != 5:
        raise ValueError(f"images must have shape [R,S,C,H,W] or [R,S,D], got {tuple(images.shape)}")
    rows, columns, channels, height, width = images.shape
    if channels != 3:
        images = np.repeat(images.mean(axis=2, keepdims=True), 3, axis=2)
    tall = max(1, round(width / height / 2))  # a vector would be a line one pixel high
    scale = max(1, round(CELL / max(width, tall * height)))  # gaps stay thin beside small images
    images = np.clip(np.nan_to_num(images), 0, 1).repeat(scale * tall, axis=3).repeat(scale, axis=4)
    height, width = images.shape[3:]
    picture = np.full(
        (rows * (height + gap) + gap, columns * (width + gap) + gap, 4), (128, 128, 128, 90), np.uint8
    )
    for i, j in np.ndindex(rows, columns):
        top, left = gap + i * (height + gap), gap + j * (width + gap)
        cell = picture[top : top + height, left : left + width]
        cell[..., :3] = np.rint(255 * images[i, j].transpose(1, 2, 0)) if shown[i, j] else 0
        cell[..., 3] = 255 if shown[i, j] else 0
    return picture


def image_grid(
    ax: Any, images: np.ndarray, shown: np.ndarray, labels: Sequence[int], failed: np.ndarray
) -> None:
    """Figures 1, 5 and 9: rows are true labels, columns targets, the diagonal the benign images; failed get a cross."""
    picture = mosaic(images, shown)
    count = len(labels)
    ax.imshow(picture, extent=(0, count, count, 0), interpolation="none", aspect="auto")
    for index in range(count):
        frame = {"xy": (index + 0.01, index + 0.01), "width": 0.98, "height": 0.98}
        ax.add_patch(_rectangle(frame, ORANGE))
    for i, j in zip(*np.nonzero(failed), strict=True):
        ax.text(j + 0.5, i + 0.5, "×", ha="center", va="center", color=GREY, fontsize=90 / max(count, 8))
    ticks = [index + 0.5 for index in range(count)]
    ax.set_xticks(ticks, [str(v) for v in labels])
    ax.set_yticks(ticks, [str(v) for v in labels])
    ax.tick_params(length=0, labelsize=9 if count <= 12 else 6)
    ax.xaxis.set_label_position("top")
    ax.xaxis.tick_top()
    ax.set_xlabel("target label")
    ax.set_ylabel("true label")
    ax.spines[:].set_visible(False)


def _rectangle(frame: dict[str, Any], colour: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(**frame, fill=False, edgecolor=colour, linewidth=1.4)
