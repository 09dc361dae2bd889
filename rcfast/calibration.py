"""Learning the length r on benign validation examples (paper, section 5.1, Algorithm 1)."""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from . import regions
from .classifier import RegionClassifier
from .hardware import DtypeChoice
from .regions import check_number
from .running import Model, tensors

BLOCK = (
    1024  # pairs of example and length voted on in one call: enough to fill the hardware, and the bar moves
)


@dataclass(frozen=True)
class LengthSearch:
    """What a search for the length found: the curve of the paper's Figure 4, and the length learnt."""

    r: float  # the last length, from r0 upwards, at which no accuracy was lost
    radii: tuple[float, ...]  # lengths scored, ascending
    accuracy: tuple[float, ...]  # of the region-based classifier at each, in [0, 1]
    point_accuracy: float  # of the model itself
    n: int  # validation examples


def learn_length(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    r0: float = 0.0,
    step: float = 0.01,
    r_max: float = 1.0,
    m: int = 1000,
    tolerance: float = 0.0,
    curve: bool = False,
    stop: str | None = "exact",
    clip: regions.Clip = "intersect",
    alpha: float = 1e-3,
    seed: int = 0,
    num_classes: int | None = None,
    chunk: int | None = None,
    dtype: DtypeChoice = None,
    progress: bool = False,
) -> LengthSearch:
    """Algorithm 1: raise r from ``r0`` by ``step`` while the votes are as accurate as the model.

    ``x`` [N, ...] float32 in [0,1] with labels ``y`` [N] int64, N >= 1, on any device. ``tolerance``:
    accuracy that may be lost (0: the paper's loop). ``r_max``: where the search ends at the latest.
    ``curve``: score every length up to ``r_max``, as a figure wants it; r is the same. ``stop="exact"`` gives
    the accuracies of all m votes; ``"sequential"`` is some 30 times faster and agrees with it but for near
    ties. Other arguments as for :class:`rcfast.RegionClassifier`. Every length uses the same random numbers,
    scaled: the curve is smooth.

    The model's accuracy is measured in the same precision as the votes: it is theirs at r = 0. If ``r0`` > 0
    does not hold, r is 0.0, where it holds by definition, and a RuntimeWarning says so.

    Raises TypeError or ValueError, naming the argument and the value.
    """
    x = regions.check_examples(x)
    if len(x) == 0:
        raise ValueError("x must hold at least one example, got none")
    y = _check_labels(y, len(x))
    r0 = check_number("r0", r0, 0, math.inf, "[)")
    step = check_number("step", step, 0, math.inf, "()")
    r_max = check_number("r_max", r_max, r0, math.inf, "[)")
    tolerance = check_number("tolerance", tolerance, 0, 1)
    options: dict[str, Any] = {"m": m, "clip": clip, "stop": stop, "alpha": alpha, "seed": seed}
    options |= {"num_classes": num_classes, "chunk": chunk, "dtype": dtype}
    classifier = RegionClassifier(model, 0.0, **options)
    scorer = _Scorer(classifier, x, y, next((t.device for t in tensors(model)), x.device))
    radii = [round(r0 + k * step, 12) for k in range(math.floor((r_max - r0) / step + 1e-9) + 1)]
    point = scorer.correct([0.0], m=1)[0]
    allowed = point - tolerance * len(x) - 1e-9
    together = max(1, BLOCK // len(x))
    correct = [point] if r0 == 0 else []  # at r = 0 all points are the example itself
    with tqdm(total=len(radii) * len(x), desc="learn length", unit="example", disable=not progress) as bar:
        bar.update(len(correct) * len(x))
        for start in range(len(correct), len(radii), together):
            correct += scorer.correct(radii[start : start + together], bar=bar)
            bar.set_postfix(r=radii[len(correct) - 1], accuracy=f"{correct[-1] / len(x):.2%}")
            if min(correct) < allowed and not curve:
                break
    failed = next((k for k, number in enumerate(correct) if number < allowed), len(correct))
    if not curve:
        correct = correct[: failed + 1]
    if failed == 0:
        warnings.warn(
            f"r0 = {r0} already loses accuracy ({correct[0]} of {len(x)} correct, the model {point}): r is 0",
            RuntimeWarning,
            stacklevel=2,
        )
    return LengthSearch(
        r=radii[failed - 1] if failed else 0.0,
        radii=tuple(radii[: len(correct)]),
        accuracy=tuple(number / len(x) for number in correct),
        point_accuracy=point / len(x),
        n=len(x),
    )


@dataclass(frozen=True)
class _Scorer:
    """Counts correct votes at several lengths, each example with the same random numbers at all of them."""

    classifier: RegionClassifier
    x: Tensor
    y: Tensor
    device: torch.device

    def correct(self, radii: list[float], *, m: int | None = None, bar: Any = None) -> list[int]:
        """The number of correct labels at each of ``radii``.

        Small validation sets are voted on at several lengths at once: the few examples of each length that
        take long then share their forward passes.
        """
        totals = torch.zeros(len(radii), dtype=torch.int64)
        for start in range(0, len(self.x), BLOCK):
            x = self.x[start : start + BLOCK].to(self.device)
            y = self.y[start : start + BLOCK].to(self.device)
            self.classifier.r = torch.tensor(
                radii, dtype=torch.float32, device=self.device
            ).repeat_interleave(len(x))
            ids = regions.content_ids(x)
            votes = self.classifier.vote(
                x.repeat(len(radii), *[1] * (x.ndim - 1)), example_ids=ids.repeat(len(radii)), m=m
            )
            _check_range(y, votes.counts.shape[1], start)
            totals += (votes.label.view(len(radii), -1) == y).sum(1).cpu()
            if bar is not None:
                bar.update(len(votes))
        return totals.tolist()


def _check_labels(y: Any, n: int) -> Tensor:
    if not isinstance(y, Tensor):
        raise TypeError(f"y must be a torch.Tensor, got {type(y).__name__}")
    if y.dtype != torch.int64:
        raise TypeError(f"y must be int64, got {y.dtype}")
    if y.shape != (n,):
        raise ValueError(f"y must have the shape [{n}], got {list(y.shape)}")
    _check_range(y, None, 0)
    return y


def _check_range(y: Tensor, labels: int | None, start: int) -> None:
    bad = (y < 0) if labels is None else (y >= labels)
    if bool(bad.any()):
        index = int(bad.nonzero()[0, 0])
        limit = "be >= 0" if labels is None else f"lie in [0, {labels - 1}]"
        raise ValueError(f"y must {limit}, got {int(y[index])} at index {start + index}")
