"""What a model returns: logits, wherever they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

FAR = 1e4  # times the median: what is larger sets no scale


def logits_of(out: Any, rows: int) -> Tensor:
    """The logits [rows, L], L >= 2, of what a model returned for so many rows.

    Taken from a field ``logits``, or from the only tensor of a tuple or dict. Raises TypeError or ValueError.
    """
    if not isinstance(out, Tensor):
        out = _field(out)
    if not out.is_floating_point():
        raise TypeError(f"model must return floating logits, got {out.dtype}")
    if rows == 1 and out.ndim == 1 and len(out) > 1:  # squeezed
        out = out[None]
    if out.ndim != 2 or len(out) != rows or out.shape[1] < 2:
        raise ValueError(
            f"model must return logits [N, L], L >= 2, got shape {tuple(out.shape)} for {rows} points"
        )
    return out


def labels_of(logits: Tensor) -> Tensor:
    """The labels [n] of logits [n, L], the lowest of those that tie. Raises ValueError for NaN, which has no place."""
    said = logits.argmax(1)
    if bool(logits.gather(1, said[:, None]).isnan().any()):  # NaN counts as the greatest
        row = int(logits.isnan().any(1).nonzero()[0])
        raise ValueError(f"model must return logits without NaN, got NaN for example {row} of {len(logits)}")
    return said


def _field(out: Any) -> Tensor:
    if isinstance(out, Mapping):
        named = {f"[{key!r}]": value for key, value in out.items()}
        chosen = out.get("logits")
    elif is_dataclass(out) and not isinstance(out, type):
        named = {f".{field.name}": getattr(out, field.name) for field in fields(out)}
        chosen = named.get(".logits")
    elif isinstance(out, tuple | list):
        named = {f"[{index}]": value for index, value in enumerate(out)}
        chosen = getattr(out, "logits", None)
    else:
        named, chosen = {}, getattr(out, "logits", None)
    held = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    if isinstance(chosen, Tensor):
        return chosen
    if len(held) == 1:
        return next(iter(held.values()))
    shown = ", ".join(f"{name} {list(value.shape)}" for name, value in held.items())
    some = f" with {shown}; name the one, as in lambda x: model(x){next(iter(held))}" if held else ""
    raise TypeError(f"model must return a tensor of logits [N, L], got {type(out).__name__}{some}")


def alike(a: Tensor, b: Tensor) -> bool:
    """Whether two outputs are the same up to rounding, for the coarser of their dtypes.

    Rounding is that of the largest value, masks far beyond the others (-1e9) left out.
    """
    if a.shape != b.shape:
        return False
    eps = max(torch.finfo(t.dtype).eps for t in (a, b))
    a, b = a.detach().double(), b.detach().double()
    size = a.abs()
    size = size[size.isfinite() & (size > 0)]
    scale = float(size[size <= FAR * size.median()].amax()) if len(size) else 0.0
    tolerance = math.sqrt(eps)
    return torch.allclose(b, a, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
