"""The points on which a vote is cast."""

import torch
from torch import Tensor

from .base import Region
from .checks import POINT_DTYPES, Clip, check_examples, check_ids, check_int
from .cube import Cube
from .ids import content_ids


def as_region(region: "Region | float | Tensor", clip: Clip = "intersect") -> Region:
    """``region`` itself; a length r, or one per example, is Cube(r, clip). Raises TypeError or ValueError."""
    if not isinstance(region, Region):
        return Cube(region, clip)
    if clip != "intersect":
        raise ValueError(f"clip belongs to a length r, got clip = {clip!r} beside {region!r}")
    return region


def sample(
    x: Tensor,
    region: Region | float | Tensor,
    samples: int,
    *,
    seed: int = 0,
    example_ids: Tensor | None = None,
    first_sample: int = 0,
    clip: Clip = "intersect",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Points of the regions around ``x``: the very ones on which a :class:`~rcfast.RegionClassifier` votes.

    ``x`` [B, ...] float in [0,1]; ``region``, or a length r, a number or a tensor [B], in place of Cube(r, clip) ->
    [B, samples, ...] of ``dtype``, holding samples ``first_sample`` and following. Raises like
    :meth:`rcfast.RegionClassifier.vote`.
    """
    x = check_examples(x)
    region = as_region(region, clip)
    samples = check_int("samples", samples, 0, 2**31 - 1)
    if dtype not in POINT_DTYPES:
        raise TypeError(f"dtype must be torch.float32, torch.float16 or torch.bfloat16, got {dtype}")
    region.check(x.shape)
    ids = content_ids(x) if example_ids is None else check_ids(example_ids, x.shape[0])
    out = torch.empty(x.shape[0], samples, *x.shape[1:], dtype=dtype, device=x.device)
    if out.numel():
        region.to(x.device).fill(
            out,
            x.to(torch.float32).contiguous(),
            seed=check_int("seed", seed, 0, 2**64 - 1),
            example_ids=ids,
            first_sample=check_int("first_sample", first_sample, 0, 2**31 - 1),
        )
    return out
