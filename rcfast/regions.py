"""Regions around examples: what may be one, who an example is, and points of its region (section 4)."""

import hashlib
import math
from numbers import Real
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from . import ops

Clip = Literal["intersect", "clamp"]
POINT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TOLERANCE = 1e-6  # how far outside [0, 1] a coordinate may lie: rounding, not an error
_BLOCK = 1 << 20  # coordinates hashed at a time, so that memory does not grow with the batch


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


def check_radius(r: Any) -> float | Tensor:
    """A length (half-width) ``r``: a finite number >= 0, or a floating tensor [B] of them.

    Raises TypeError, or ValueError naming the first bad value.
    """
    if isinstance(r, Tensor):
        if not r.is_floating_point():
            raise TypeError(f"r must be a number or a floating tensor [B], got a tensor of {r.dtype}")
        if r.ndim > 1:
            raise ValueError(f"r must be a number or a tensor of shape [B], got shape {tuple(r.shape)}")
        bad = ~((r >= 0) & r.isfinite())
        if bool(bad.any()):
            index = int(bad.reshape(-1).nonzero()[0, 0])
            raise ValueError(f"r must be finite and >= 0, got {r.reshape(-1)[index].item()} at index {index}")
        return r.detach().to(torch.float32) if r.ndim else float(r)
    if isinstance(r, bool) or not isinstance(r, Real):
        raise TypeError(f"r must be a number or a floating tensor [B], got {r!r}")
    length = float(r)
    if not 0 <= length < math.inf:
        raise ValueError(f"r must be finite and >= 0, got {length}")
    return length


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


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _mix(z: Tensor, shift: int, multiplier: int) -> Tensor:
    """One in-place round of z ^= z >> shift (logical), z *= multiplier, on int64 with wrapping."""
    return z.bitwise_xor_((z >> shift).bitwise_and_((1 << 64 - shift) - 1)).mul_(_signed(multiplier))


def _splitmix(z: Tensor) -> Tensor:
    # The finaliser of SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
    return _mix(_mix(_mix(z, 30, 0xBF58476D1CE4E5B9), 27, 0x94D049BB133111EB), 31, 1)


def content_ids(x: Tensor) -> Tensor:
    """A 64-bit hash of each example's float32 content: ``x`` [B, ...] floating -> int64 [B].

    The same values give the same id in any batch, memory format, shape and on any device (-0.0 counts as
    0.0). Every coordinate is offset by a 64-bit word of its position, mixed and summed; the sum is mixed
    again. Made against accidents (two of a billion examples collide with probability about 0.03), not against
    adversaries.
    """
    batch, n = x.shape[0], x[0].numel() if x.shape[0] else 0
    ids = torch.empty(batch, dtype=torch.int64, device=x.device)
    step = max(1, _BLOCK // max(n, 1))
    position = torch.arange(1, n + 1, device=x.device).mul_(_signed(0x9E3779B97F4A7C15))
    position = _splitmix(position)
    for start in range(0, batch, step):
        content = x[start : start + step].reshape(-1, n).to(torch.float32) + 0.0
        words = content.contiguous().view(torch.int32).to(torch.int64).add_(position)
        words = _mix(words.mul_(_signed(0xD6E8FEB86659FD93)), 32, 0xD6E8FEB86659FD93)
        ids[start : start + step] = words.sum(1)
    return _splitmix(ids.add_(n))


def keyed_ids(x: Tensor, key: bytes) -> Tensor:
    """A secret hash of each example's float32 content: ``x`` [B, ...] floating, ``key`` bytes -> int64 [B].

    The same values give the same id in any batch, memory format, shape and on any device, as with
    :func:`content_ids`. Without the key nobody can tell an id or find two examples with the same one: BLAKE2b
    (RFC 7693), keyed. Computed by the host.
    """
    rows = (x.flatten(1).to(torch.float32) + 0.0).cpu().contiguous().numpy()
    hashes = [hashlib.blake2b(row.tobytes(), digest_size=8, key=key).digest() for row in rows]
    ids = [int.from_bytes(digest, "little", signed=True) for digest in hashes]
    return torch.tensor(ids, dtype=torch.int64, device=x.device)


def sample(
    x: Tensor,
    r: float | Tensor,
    samples: int,
    *,
    seed: int = 0,
    example_ids: Tensor | None = None,
    first_sample: int = 0,
    clip: Clip = "intersect",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Points of the regions around ``x``: the very ones on which a :class:`~rcfast.RegionClassifier` votes.

    ``x`` [B, ...] float in [0,1]; ``r`` a length or a tensor [B] -> [B, samples, ...] of ``dtype``, holding
    samples
    ``first_sample`` and following. Raises like :meth:`rcfast.RegionClassifier.vote`.
    """
    x = check_examples(x)
    r = check_radius(r)
    samples = check_int("samples", samples, 0, 2**31 - 1)
    if dtype not in POINT_DTYPES:
        raise TypeError(f"dtype must be torch.float32, torch.float16 or torch.bfloat16, got {dtype}")
    if isinstance(r, Tensor) and r.shape[0] != x.shape[0]:
        raise ValueError(f"r must be a number or have the shape [{x.shape[0]}], got {list(r.shape)}")
    ids = content_ids(x) if example_ids is None else check_ids(example_ids, x.shape[0])
    out = torch.empty(x.shape[0], samples, *x.shape[1:], dtype=dtype, device=x.device)
    if out.numel():
        ops.sample_hypercube_(
            out,
            x.to(torch.float32).contiguous(),
            r,
            seed=check_int("seed", seed, 0, 2**64 - 1),
            example_ids=ids,
            first_sample=check_int("first_sample", first_sample, 0, 2**31 - 1),
            clip=check_clip(clip),
        )
    return out
