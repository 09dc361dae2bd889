"""What may be an argument: one line that names it and its value, before any work."""

import math
from numbers import Real
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Clip = Literal["intersect", "clamp"]
POINT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TOLERANCE = 1e-6  # how far outside [0, 1] a coordinate may lie: rounding, not an error


def check_clip(clip: str) -> Clip:
    """The name of a clip mode, checked. Raises ValueError."""
    if clip not in get_args(Clip):
        raise ValueError(f"clip must be one of {', '.join(map(repr, get_args(Clip)))}, got {clip!r}")
    return clip  # type: ignore[return-value]


def check_int(name: str, value: Any, low: int, high: int) -> int:
    """``value`` as an int in [low, high]. Raises TypeError for another type, ValueError outside the range."""
    if isinstance(value, bool | float) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    number = value.__index__()
    if not low <= number <= high:
        raise ValueError(f"{name} must lie in [{low}, {high}], got {number}")
    return int(number)


def check_number(name: str, value: Any, low: float, high: float, ends: str = "[]") -> float:
    """``value`` as a finite float between ``low`` and ``high``; ``ends`` "(" and ")" leave an end out.

    Raises TypeError for another type, ValueError outside the range.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = float(value)
    inside = low < number < high or (number == low and ends[0] == "[") or (number == high and ends[1] == "]")
    if not (inside and math.isfinite(number)):
        raise ValueError(f"{name} must lie in {ends[0]}{low:g}, {high:g}{ends[1]}, got {number}")
    return number


def check_size(name: str, size: Any, *, positive: bool = False) -> float | Tensor:
    """The size of a region: a finite number >= 0 (``positive``: > 0), or a floating tensor [B] of them.

    Raises TypeError, or ValueError naming the first bad value.
    """
    wanted = f"finite and {'>' if positive else '>='} 0"
    if isinstance(size, Tensor):
        if not size.is_floating_point():
            raise TypeError(f"{name} must be a number or a floating tensor [B], got a tensor of {size.dtype}")
        if size.ndim > 1:
            raise ValueError(
                f"{name} must be a number or a tensor of shape [B], got shape {tuple(size.shape)}"
            )
        bad = ~(((size > 0) if positive else (size >= 0)) & size.isfinite())
        if bool(bad.any()):
            index = int(bad.reshape(-1).nonzero()[0, 0])
            raise ValueError(
                f"{name} must be {wanted}, got {size.reshape(-1)[index].item()} at index {index}"
            )
        return size.detach().to(torch.float32) if size.ndim else float(size)
    if isinstance(size, bool) or not isinstance(size, Real):
        raise TypeError(f"{name} must be a number or a floating tensor [B], got {size!r}")
    number = float(size)
    if not (0 < number < math.inf if positive else 0 <= number < math.inf):
        raise ValueError(f"{name} must be {wanted}, got {number}")
    return number


def check_radius(r: Any) -> float | Tensor:
    """A length (half-width) ``r``, as :func:`check_size`."""
    return check_size("r", r)


def check_device(name: str, tensor: Tensor, device: torch.device | None) -> None:
    """``tensor`` is on the model's device, if it has one. Raises ValueError."""
    if device is not None and tensor.device != device:
        raise ValueError(f"{name} must be on the device of the model, {device}, got {tensor.device}")


def check_examples(x: Any, device: torch.device | None = None) -> Tensor:
    """Examples ``x`` [B, ...], floating (rounded to float32 in use) in [0, 1], without NaN; detached.

    Raises TypeError for another type, ValueError naming the first bad example. Nothing is clipped: a
    coordinate up to 1e-6 outside counts as rounding.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"x must be a floating tensor (float32), got {x.dtype}")
    if x.ndim < 2 or 0 in x.shape[1:]:
        raise ValueError(f"x must have the shape [B, ...] with at least one coordinate, got {tuple(x.shape)}")
    check_device("x", x, device)
    x = x.detach()
    if x.shape[0] == 0:
        return x
    low, high = torch.stack(torch.aminmax(x)).tolist()  # both NaN if any coordinate is
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
        for index, example in enumerate(x):
            low, high = torch.stack(torch.aminmax(example)).tolist()
            if math.isnan(low):
                raise ValueError(f"x must lie in [0, 1], got NaN in example {index}")
            if low < -TOLERANCE or high > 1 + TOLERANCE:
                worst = low if low < -TOLERANCE else high
                raise ValueError(f"x must lie in [0, 1], got {worst} in example {index}")
    return x


def check_ids(example_ids: Any, batch: int) -> Tensor:
    """Ids int64 [B]. Raises TypeError or ValueError."""
    if not isinstance(example_ids, Tensor):
        raise TypeError(f"example_ids must be an int64 tensor [B], got {type(example_ids).__name__}")
    if example_ids.dtype != torch.int64:
        raise TypeError(f"example_ids must be int64, got {example_ids.dtype}")
    if example_ids.shape != (batch,):
        raise ValueError(f"example_ids must have the shape [{batch}], got {list(example_ids.shape)}")
    return example_ids
