"""Points of regions."""

import math
from typing import Any

import torch
from torch import Tensor

from .native import DTYPES, address, check, check_device, check_value, operator, run

_CLIPS = {"intersect": 0, "clamp": 1}
NOISES = {"gaussian": 0, "laplace": 1, "l2_ball": 2, "l1_ball": 3, "sphere": 4}
_ADDRESS = (
    "Tensor example_ids, SymInt seed, Tensor? seed_tensor, SymInt first_sample, Tensor? first_sample_tensor"
)


def channels(name: str, points: Tensor) -> int:
    """1 where the elements of a point lie in order, C where ``points`` [B, s, C, ...] is channels_last."""
    if points.is_contiguous():
        return 1
    if points.dim() > 3 and points.movedim(2, -1).is_contiguous():
        return points.shape[2]
    raise ValueError(f"{name} must be contiguous or channels_last, got strides {list(points.stride())}")


def _sample(kernel: str, out: Tensor, x: Tensor, size: float, size_each: Tensor | None, *rest: Any) -> None:
    """A kernel's common arguments; ``rest``: the address of the points, and the kernel's own."""
    if out.numel() == 0:
        return
    example_ids, seed, seed_tensor, first_sample, first_sample_tensor, *own = rest
    samples, n = out.shape[1], math.prod(out.shape[2:])
    arguments = (
        *(out.data_ptr(), DTYPES[out.dtype], x.data_ptr(), size, address(size_each), example_ids.data_ptr()),
        *(seed, address(seed_tensor), first_sample, address(first_sample_tensor)),
        *(out.shape[0], samples, n, channels("out", out), *own),
    )
    run(kernel, arguments, out)


@operator(f"sample_hypercube_(Tensor(a!) out, Tensor x, float r, Tensor? r_each, {_ADDRESS}, str clip) -> ()")
def _sample_hypercube_(*arguments: Any) -> None:
    _sample("sample_hypercube", *arguments[:-1], _CLIPS[arguments[-1]])


@operator(
    f"sample_noise_(Tensor(a!) out, Tensor x, float size, Tensor? size_each, {_ADDRESS}, str noise, bool clamp)"
    " -> ()"
)
def _sample_noise_(*arguments: Any) -> None:
    *shared, noise, clamp = arguments
    _sample("sample_noise", *shared, NOISES[noise], clamp)


def _checked(
    out: Tensor,
    x: Tensor,
    named: tuple[str, float | Tensor],
    seed: int | Tensor,
    example_ids: Tensor,
    first_sample: int | Tensor,
) -> tuple[Any, ...]:
    """The arguments that all samplers share, as their operators take them. Raises TypeError or ValueError."""
    if out.dim() < 3:
        raise ValueError(f"out must have shape [B, s, ...], got {list(out.shape)}")
    if out.dtype not in DTYPES:
        raise TypeError(f"out must be float32, float16 or bfloat16, got {out.dtype}")
    check("x", x, (torch.float32,), (out.shape[0], *out.shape[2:]))
    check("example_ids", example_ids, (torch.int64,), (out.shape[0],))
    first_tensor = None
    if isinstance(first_sample, Tensor):
        first_tensor, first_sample = check_value("first_sample", first_sample), 0
    elif not 0 <= first_sample <= 2**32 - out.shape[1]:
        raise ValueError(f"first_sample must lie in [0, 2^32 - {out.shape[1]}], got {first_sample}")
    name, size = named
    each = None
    if isinstance(size, Tensor):
        check(name, size, (torch.float32,), (out.shape[0],))
        each, size = size.contiguous(), 0.0
    elif not 0 <= size < math.inf:
        raise ValueError(f"{name} must be a finite number >= 0, got {size}")
    seed_tensor = None
    if isinstance(seed, Tensor):
        seed_tensor, seed = check_value("seed", seed), 0
    elif not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed must fit 64 bits, got {seed}")
    tensors = {
        "x": x,
        "example_ids": example_ids,
        name: each,
        "seed": seed_tensor,
        "first_sample": first_tensor,
    }
    for label, tensor in tensors.items():
        if tensor is not None:
            check_device(label, tensor, out)
    channels("out", out)
    signed = seed - 2**64 if seed >= 2**63 else seed
    return (
        *(out, x.contiguous(), float(size), each, example_ids.contiguous()),
        *(signed, seed_tensor, first_sample, first_tensor),
    )


def sample_hypercube_(
    out: Tensor,
    x: Tensor,
    r: float | Tensor,
    *,
    seed: int | Tensor = 0,
    example_ids: Tensor,
    first_sample: int | Tensor = 0,
    clip: str = "intersect",
) -> None:
    """Fill ``out`` with points of the hypercubes around ``x`` (Cao and Gong, section 4).

    The point is a pure function of (seed, example id, sample index, element index) and ``x``: it does not
    depend on the batch, the chunk, the number of threads, the memory format or the device. Reduced dtypes are
    the float32 point rounded to nearest even. Each coordinate takes one of 65,536 equally spaced values of its
    interval.

    Args:
        out: [B, s, ...] float32, float16 or bfloat16, contiguous or, as [B, s, C, ...], channels_last;
            overwritten.
        x: [B, ...] float32 in [0, 1] (a promise, not checked).
        r: half-width of the cube, a number >= 0 or one per example, float32 [B].
        seed: 64-bit key; an int64 tensor of one value on the same device where CUDA graphs must see it
            change.
        example_ids: int64 [B].
        first_sample: index of out[:, 0]; first_sample + s at most 2^32 (of a tensor like ``seed``, a promise, not
            checked).
        clip: "intersect" draws from B(x, r) ∩ [0,1]^n; "clamp" draws x + U(-r, r) and clamps it.

    Raises:
        TypeError: a dtype other than the above.
        ValueError: a shape, device, layout or value other than the above.
    """
    if clip not in _CLIPS:
        raise ValueError(f"clip must be 'intersect' or 'clamp', got {clip!r}")
    _sample_hypercube_(*_checked(out, x, ("r", r), seed, example_ids, first_sample), clip)


def sample_noise_(
    out: Tensor,
    x: Tensor,
    size: float | Tensor,
    *,
    noise: str,
    seed: int | Tensor = 0,
    example_ids: Tensor,
    first_sample: int | Tensor = 0,
    clamp: bool = False,
) -> None:
    """Fill ``out`` with ``x`` plus noise, the same bits on every machine, as :func:`sample_hypercube_` does.

    A coordinate's variate comes from a 32-bit word by inversion: from 2^32 equally likely quantiles, normal up to
    6.3 or exponential up to 22.2. The noise of a ball is divided by the norm of the variates, summed in one order.

    Args:
        out, x, seed, example_ids, first_sample: as of :func:`sample_hypercube_`.
        size: a number >= 0 or one per example, float32 [B]: the standard deviation, the scale or the radius.
        noise: "gaussian" and "laplace", independent in every coordinate; "l2_ball", "l1_ball", uniform in the ball,
            and "sphere", uniform on the sphere of radius ``size``.
        clamp: clamp the points to [0, 1].

    Raises:
        TypeError: a dtype other than the above.
        ValueError: a shape, device, layout or value other than the above.
    """
    if noise not in NOISES:
        raise ValueError(f"noise must be one of {', '.join(map(repr, NOISES))}, got {noise!r}")
    _sample_noise_(*_checked(out, x, ("size", size), seed, example_ids, first_sample), noise, clamp)
