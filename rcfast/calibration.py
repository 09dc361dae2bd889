"""Learning the length r on benign validation examples (paper, section 5.1, Algorithm 1)."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from . import regions
from .classifier import RegionClassifier
from .data.images import Images, rows_in_memory
from .hardware import DtypeChoice, automatic_dtype, too_coarse, warn_if_coarse
from .regions import check_number
from .running import Model, tensors
from .sharing import Group
from .weights import Weights, check_weights

Family = Callable[[float], regions.Region]  # what makes a region of a size
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
    x: Tensor | Images,
    y: Tensor,
    *,
    r0: float = 0.0,
    step: float = 0.01,
    r_max: float = 1.0,
    m: int = 1000,
    tolerance: float = 0.0,
    curve: bool = False,
    stop: str | None = "exact",
    region: Family = regions.Cube,
    clip: regions.Clip = "intersect",
    weights: Weights = "count",
    alpha: float = 1e-3,
    seed: int = 0,
    num_classes: int | None = None,
    chunk: int | None = None,
    dtype: DtypeChoice = None,
    group: Group | None = None,
    progress: bool = False,
) -> LengthSearch:
    """Algorithm 1: raise the size r from ``r0`` by ``step`` while the votes are as accurate as the model.

    ``x`` [N, ...] float32 in [0,1] with labels ``y`` [N] int64, N >= 1, on any device; images that lie on disk
    (:class:`rcfast.data.Images`) are read as they are voted on, never all at once. ``tolerance``: accuracy that may be
    lost (0: the paper's loop). ``r_max``: where the search ends at the latest.
    ``curve``: score every length up to ``r_max``, as a figure wants it; r is the same. ``stop="exact"`` gives
    the accuracies of all m votes; ``"sequential"`` is some 30 times faster and agrees with it but for near
    ties. Every length uses the same random numbers, scaled: the curve is smooth.

    ``region``: the family searched, anything that makes a region of a size: ``rcfast.Cube`` (``clip`` is its),
    ``rcfast.Gaussian``, ``lambda r: rcfast.Subspace(r, components)``. It is not asked for the size 0, where every
    region is the example itself. Other arguments as for :class:`rcfast.RegionClassifier`.

    The model's accuracy is measured in the same precision as the votes: it is theirs at r = 0. ``dtype="auto"`` is one
    precision for all sizes, float32 where bfloat16 would be too coarse for the smallest: a search in steps of 0.01. If
    ``r0`` > 0 does not hold, r is 0.0, where it holds by definition, and a RuntimeWarning says so. It is
    the model's own answer to the example, of ``rcfast.Decoded`` too, whose region of the size 0 is what is decoded.

    Raises TypeError or ValueError, naming the argument and the value.
    """
    if not isinstance(x, Images):  # which are 8-bit, and so in range
        x = regions.check_examples(x)
    if len(x) == 0:
        raise ValueError("x must hold at least one example, got none")
    y = _check_labels(y, len(x))
    r0 = check_number("r0", r0, 0, math.inf, "[)")
    step = check_number("step", step, 0, math.inf, "()")
    r_max = check_number("r_max", r_max, r0, math.inf, "[)")
    tolerance = check_number("tolerance", tolerance, 0, 1)
    options: dict[str, Any] = {"m": m, "stop": stop, "alpha": alpha, "weights": weights, "seed": seed}
    options |= {"num_classes": num_classes, "chunk": chunk, "dtype": dtype, "group": group}
    classifier = RegionClassifier(model, 0.0, **options)
    family = _checked(region, clip, (step if r0 == 0 else r0), x.shape)
    smallest = family(step if r0 == 0 else r0)
    check_weights(weights, smallest)
    device = next((t.device for t in tensors(model)), x.device)
    classifier.dtype = _precision(dtype, smallest, x, device)
    scorer = _Scorer(classifier, x, y, device)
    radii = [round(r0 + k * step, 12) for k in range(math.floor((r_max - r0) / step + 1e-9) + 1)]
    point = scorer.correct([regions.Cube(0.0)], m=1)[0]
    allowed = point - tolerance * len(x) - 1e-9
    together = max(1, scorer.block // len(x))
    correct = [point] if r0 == 0 else []  # at r = 0 all points are the example itself
    with tqdm(total=len(radii) * len(x), desc="learn length", unit="example", disable=not progress) as bar:
        bar.update(len(correct) * len(x))
        for start in range(len(correct), len(radii), together):
            correct += scorer.correct([family(r) for r in radii[start : start + together]], bar=bar)
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
    x: Tensor | Images
    y: Tensor
    device: torch.device

    @property
    def block(self) -> int:
        """Pairs of example and length voted on in one call."""
        return rows_in_memory(self.x.shape[1:], BLOCK)

    def correct(self, each: list[regions.Region], *, m: int | None = None, bar: Any = None) -> list[int]:
        """The number of correct labels in each of the regions.

        Small validation sets are voted on in several regions at once, where these differ in size alone: the few
        examples of each that take long then share their forward passes.
        """
        sizes = [region.size for region in each]
        if any(each[0].resized(size) != region for size, region in zip(sizes[1:], each[1:], strict=True)):
            return [self._correct(region, None, m, bar)[0] for region in each]
        return self._correct(each[0], sizes, m, bar)

    def _correct(self, region: regions.Region, sizes: Any, m: int | None, bar: Any) -> list[int]:
        copies = len(sizes) if sizes else 1
        totals = torch.zeros(copies, dtype=torch.int64, device="cpu")
        for start in range(0, len(self.x), self.block):
            x = self.x[start : start + self.block].to(self.device)
            y = self.y[start : start + self.block].to(self.device)
            self.classifier.region = region
            if sizes:
                lengths = torch.tensor(sizes, dtype=torch.float32, device=self.device)
                self.classifier.region = region.resized(lengths.repeat_interleave(len(x)))
            ids = regions.content_ids(x)
            pairs = x.repeat(copies, *[1] * (x.ndim - 1)) if copies > 1 else x
            votes = self.classifier.vote(pairs, example_ids=ids.repeat(copies), m=m)
            _check_range(y, votes.counts.shape[1], start)
            totals += (votes.label.view(copies, -1) == y).sum(1).cpu()
            if bar is not None:
                bar.update(len(votes))
        return totals.tolist()


def _precision(
    dtype: DtypeChoice, smallest: regions.Region, x: Tensor | Images, device: torch.device
) -> DtypeChoice:
    """One precision for all sizes, fine enough for the smallest one where it is ``"auto"``."""
    spread = smallest.spread(x[0].numel())
    if dtype == "auto":
        return torch.float32 if too_coarse(torch.bfloat16, spread) else automatic_dtype(device)
    if isinstance(dtype, torch.dtype) and isinstance(spread, float):
        warn_if_coarse(dtype, spread, smallest)
    return dtype


def _checked(region: Any, clip: regions.Clip, size: float, shape: torch.Size) -> Family:
    """The family ``region``, which makes a region of ``size`` that fits ``shape``. Raises TypeError, ValueError."""
    if isinstance(region, regions.Region) or not callable(region):
        raise TypeError(
            f"region must be a family such as rcfast.Cube, from a size to a region, got {region!r}"
        )
    if region is regions.Cube:
        family: Family = partial(regions.Cube, clip=regions.check_clip(clip))
    elif clip != "intersect":
        raise ValueError(f"clip belongs to rcfast.Cube, got clip = {clip!r} beside region = {region!r}")
    else:
        family = region
    made = family(size)
    if not isinstance(made, regions.Region):
        raise TypeError(f"region must make a region of a size, got {made!r} for the size {size}")
    if isinstance(made.size, Tensor):
        raise TypeError(f"region must make a region of one size, got {made!r} for the size {size}")
    made.check(shape)
    return family


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
