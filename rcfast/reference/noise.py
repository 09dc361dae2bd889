"""Noise and balls, of correctly rounded operations in a fixed order."""

import math

import torch
from torch import Tensor

from .sampling import MASK, philox4x32_10

_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # their sum is ln 2 (fdlibm)


def words(seed: int, example_ids: Tensor, first_sample: int, samples: int, n: int) -> Tensor:
    """The 32-bit word of each (example, sample, element): int64 [B, samples, n] in [0, 2^32).

    Element e is word ``e mod 4`` of the Philox call of :func:`variates` with ``e div 4`` in place of ``e div 8``.
    """
    return _calls(seed, example_ids, first_sample, samples, torch.arange((n + 3) // 4)).flatten(-2)[..., :n]


def _calls(seed: int, example_ids: Tensor, first_sample: int, samples: int, calls: Tensor) -> Tensor:
    sample = torch.arange(first_sample, first_sample + samples, device=example_ids.device)[:, None]
    ids = example_ids[:, None, None]
    counter = torch.broadcast_tensors(calls.to(ids.device), sample, ids & MASK, ids >> 32 & MASK)
    return torch.stack(philox4x32_10(counter, (seed & MASK, seed >> 32 & MASK)), -1)


def quantile(words: Tensor, *, exponential: bool) -> Tensor:
    """Variates of the words of a shape: float32, normal, or exponential with a random sign (csrc/core/quantile.h)."""
    return _exponential_quantile(words) if exponential else _normal_quantile(words)


def _exponential_quantile(words: Tensor) -> Tensor:
    """Bit 31 is the sign, bit 30 says that the magnitude is below its median, the others are the place in that half.

    f is the place + 1/2. The tail's octaves, by the exponent of f as float32, are polynomials in its mantissa, the
    lower half is one polynomial in f / 2^30.
    """
    f = ((words & 0x3FFFFFFF).to(torch.float32) + 0.5).clamp(max=2.0**30 - 64)
    central = (words & 0x40000000) != 0
    column = torch.where(central, 157, f.view(torch.int32) >> 23) % 32
    value = _polynomial(column, torch.where(central, f * 2.0**-30, _octave_place(f)), exponential=True)
    return torch.where((words & 0x80000000) != 0, -value, value)


def _normal_quantile(words: Tensor) -> Tensor:
    """A rational function of the word in two's complement, its last bit set, where u >= 0; octaves beyond."""
    from .. import _C

    edge, *coefficients = torch.tensor(_C.normal_middle(), device=words.device)
    signed = torch.where((words & 0x80000000) != 0, words - 2**32, words)
    q = (signed | 1).to(torch.float32) * 2.0**-31
    u = fused(-q, q, edge)
    middle = q * (
        _power_series(coefficients[:7], u) / _power_series([*coefficients[7:], torch.ones_like(edge)], u)
    )
    f = (torch.where(signed < 0, words, ~words) & 0x7FFFFFFF).to(
        torch.float32
    ) + 0.5  # words that are farther out
    tail = _polynomial((f.view(torch.int32) >> 23) % 32, _octave_place(f), exponential=False)
    return torch.where(u < 0, torch.where(signed < 0, -tail, tail), middle)


def _power_series(coefficients: list[Tensor], u: Tensor) -> Tensor:
    """The polynomial in u, its constant first, by Horner's rule."""
    value = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        value = fused(value, u, coefficient)
    return value


def fused(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a · b + c of float32, rounded once.

    The product is exact in float64. Its sum with c is rounded to odd there, which leaves the second rounding what the
    first would have given (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
    """
    product, c = a.to(torch.float64) * b.to(torch.float64), c.to(torch.float64)
    total = product + c
    part = total - product
    lost = (product - (total - part)) + (c - part)  # exact (Knuth's two-sum)
    bits = total.view(torch.int64)
    outward = (lost > 0) == (total > 0)
    odd = torch.where((lost != 0) & (bits % 2 == 0), bits + torch.where(outward, 1, -1), bits)
    return odd.view(torch.float64).to(torch.float32)


def _octave_place(f: Tensor) -> Tensor:
    return (f.view(torch.int32) & 0x7FFFFF | 0x3F800000).view(torch.float32) - 1.5


def _polynomial(column: Tensor, t: Tensor, *, exponential: bool) -> Tensor:
    from .. import _C

    table = torch.tensor(_C.quantile_table(exponential), device=t.device)  # [10, 32], the highest power first
    pair = [table[2 * i][column] * t + table[2 * i + 1][column] for i in range(5)]
    square = t * t
    fourth = square * square
    return (pair[0] * fourth + (pair[1] * square + pair[2])) * fourth + (pair[3] * square + pair[4])


def point_sum(terms: Tensor) -> Tensor:
    """The sum of float32 [..., n] over each point, in the order of all machines: float64 [...].

    Of each segment of 2,048 elements, lane j of 32 adds up the elements j, j+32, ... in turn; the lanes are added by
    halves; the segments' sums, as float64, in turn.
    """
    total = torch.zeros(terms.shape[:-1], dtype=torch.float64, device=terms.device)
    for segment in terms.split(2048, -1):
        steps = torch.nn.functional.pad(segment, (0, -segment.shape[-1] % 32)).unflatten(-1, (-1, 32))
        lanes = torch.zeros_like(steps[..., 0, :])
        for k in range(steps.shape[-2]):
            lanes = lanes + steps[..., k, :]
        for half in (16, 8, 4, 2, 1):
            lanes = lanes[..., :half] + lanes[..., half:]
        total = total + lanes[..., 0].to(torch.float64)
    return total


def logarithm(u: Tensor) -> Tensor:
    """ln u of float64 in (0, 1] by correctly rounded operations in a fixed order (csrc/core/elementary.h)."""
    mantissa, exponent = torch.frexp(u)  # [1/2, 1)
    low = 2 * mantissa <= 1.4142135623730951
    m, e = torch.where(low, 2 * mantissa, mantissa), (exponent - low.to(exponent.dtype)).to(torch.float64)
    s = (m - 1) / (m + 1)
    q = s * s
    series = torch.full_like(s, 1 / 23)
    for odd in range(21, 0, -2):
        series = series * q + 1 / odd
    return e * _LN2_HIGH + (2 * s * series + e * _LN2_LOW)


def exponential(y: Tensor) -> Tensor:
    """e^y of float64 in (-700, 0], likewise."""
    k = (y * 1.4426950408889634 - 0.5).trunc()
    d = (y - k * _LN2_HIGH) - k * _LN2_LOW
    series = torch.full_like(y, 1 / math.factorial(14))
    for i in range(13, -1, -1):
        series = series * d + 1 / math.factorial(i)
    return torch.ldexp(series, k)


def sample_noise(
    x: Tensor,
    size: float | Tensor,
    samples: int,
    *,
    noise: str,
    seed: int = 0,
    example_ids: Tensor,
    first_sample: int = 0,
    clamp: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Points ``x`` + noise of ``size``: [B, samples, ...] in ``dtype``.

    ``gaussian``, ``laplace``: independent coordinates of standard deviation, or scale, ``size``. ``l2_ball``: a normal
    vector z / |z| · size · u^(1/n); ``l1_ball``: the same with exponentials of random sign and the sum of magnitudes;
    ``sphere``: z / |z| · size. u is of the Philox call 2^32 - 1, whose first 52 bits are k: (k + 1/2) / 2^52.
    """
    batch, shape = x.shape[0], x.shape[1:]
    flat = x.reshape(batch, 1, -1) + 0.0
    n = flat.shape[-1]
    scale = torch.as_tensor(size, dtype=torch.float32, device=x.device).reshape(-1, 1, 1)
    address = (seed, example_ids, first_sample, samples)
    z = quantile(words(*address, n), exponential=noise in ("laplace", "l1_ball"))
    if noise in ("l2_ball", "l1_ball", "sphere"):
        total = point_sum(z.abs() if noise == "l1_ball" else z * z)
        norm = total if noise == "l1_ball" else total.sqrt()
        radius = scale[..., 0].to(torch.float64).expand_as(norm)
        if noise != "sphere":
            call = _calls(*address, torch.tensor([MASK]))[:, :, 0]
            k = call[..., 0] << 20 | call[..., 1] >> 12
            u = (2 * k + 1).to(torch.float64) * 2.0**-53
            radius = radius * exponential(logarithm(u) / n)
        scale = (radius / norm).to(torch.float32)[..., None]
    points = flat + scale * z
    return (points.clamp(0, 1) if clamp else points).to(dtype).reshape(batch, samples, *shape)


def distance(points: Tensor, x: Tensor) -> Tensor:
    """The L2 distances of ``points`` [B, s, ...] from ``x`` [B, ...] float32: float32 [B, s]."""
    moves = (points.to(torch.float32) - x[:, None]).flatten(2)
    return point_sum(moves * moves).sqrt().to(torch.float32)
