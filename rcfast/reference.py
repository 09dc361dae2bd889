"""The slow, obvious twin of every operator in :mod:`rcfast.ops`, in plain torch: the oracle of the tests.

Every twin allocates what it likes and agrees with the native kernels bit by bit, on any device; but for
:func:`conv3x3`, which they follow up to rounding.
"""

import torch
from torch import Tensor

from .stopping import Stop, StoppingRule

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (
    0xD2511F53,
    0xCD9E8D57,
)  # Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011
_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox4x32_10(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox4x32-10 (Salmon et al. 2011): four 32-bit words from a 128-bit counter and a 64-bit key.

    ``counter``: four int64 tensors of broadcastable shape with values in [0, 2^32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = (
            c0 * _MULTIPLIERS[0],
            c2 * _MULTIPLIERS[1],
        )  # int64 wraps: the 64 bits of the product are kept
        c0, c1, c2, c3 = (p1 >> 32 & _MASK) ^ c1 ^ k0, p1 & _MASK, (p0 >> 32 & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def variates(seed: int, example_ids: Tensor, first_sample: int, samples: int, n: int) -> Tensor:
    """The 16-bit variate k of each (example, sample, element): int64 [B, samples, n] in [0, 65535].

    Element e is 16-bit lane ``e mod 8`` of the Philox call with counter
    ``(e div 8, sample, id mod 2^32, id div 2^32)`` and key ``(seed mod 2^32, seed div 2^32)``.
    """
    device = example_ids.device
    blocks = torch.arange((n + 7) // 8, device=device)
    sample = torch.arange(first_sample, first_sample + samples, device=device)[:, None]
    ids = example_ids[:, None, None]
    words = philox4x32_10(
        torch.broadcast_tensors(blocks, sample, ids & _MASK, ids >> 32 & _MASK),
        (seed & _MASK, seed >> 32 & _MASK),
    )
    lanes = torch.stack([half for word in words for half in (word & 0xFFFF, word >> 16)], dim=-1)
    return lanes.flatten(-2)[..., :n]


def sample_hypercube(
    x: Tensor,
    r: float | Tensor,
    samples: int,
    *,
    seed: int = 0,
    example_ids: Tensor,
    first_sample: int = 0,
    clip: str = "intersect",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Points of the hypercubes around ``x`` [B, ...] float32: [B, samples, ...] in ``dtype``.

    ``intersect``: uniform on B(x, r) ∩ [0,1]^n (PAPER section 4: each coordinate is uniform on
    [max(0, x-r), min(1, x+r)]). ``clamp``: x + U(-r, r), clamped to [0,1], which piles mass on 0 and 1.
    """
    batch, shape = x.shape[0], x.shape[1:]
    flat = x.reshape(batch, 1, -1) + 0.0  # -0 becomes +0
    r = torch.as_tensor(r, dtype=torch.float32, device=x.device).reshape(-1, 1, 1)
    k = variates(seed, example_ids, first_sample, samples, flat.shape[-1]).to(torch.float32)
    if clip == "intersect":
        low, high = (flat - r).clamp(0, 1), (flat + r).clamp(0, 1)
        points = low + (high - low) * 2.0**-16 * (k + 0.5)
    else:
        points = (flat + r * 2.0**-15 * (k - 32767.5)).clamp(0, 1)
    return points.to(dtype).reshape(batch, samples, *shape)


def vote(counts: Tensor, logits: Tensor) -> Tensor:
    """``counts`` [B, L] int32 plus the histogram of the argmax of ``logits`` [B, s, L] over s.

    Ties go to the lowest label. A row with a NaN casts no vote.
    """
    labels = counts.shape[1]
    valid = ~logits.isnan().any(-1)
    best = logits.max(-1, keepdim=True).values
    first = torch.where(logits == best, torch.arange(labels, device=logits.device), labels).amin(-1)
    votes = torch.zeros_like(counts)
    votes.scatter_add_(1, first.clamp(max=labels - 1), valid.to(counts.dtype))
    return counts + votes


def judge(
    counts: Tensor,
    opening: Tensor,
    votes: Tensor,
    *,
    checkpoints: list[int],
    opens: bool,
    m: int,
    stop: Stop | None,
    alpha: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Examples carried on from checkpoint to checkpoint until they stop, none of their votes missing.

    ``counts`` and ``opening`` [A, L] int32, ``votes`` [A, K, L] -> counts and opening after it, and samples,
    decided and stopped [A].
    """
    rule = StoppingRule(stop, m, counts.shape[1], alpha)
    stopped = torch.zeros(len(counts), dtype=torch.bool)
    samples, decided = torch.zeros(len(counts), dtype=torch.int64), stopped.clone()
    for k, reached in enumerate(checkpoints):
        counts = torch.where(stopped[:, None], counts, counts + votes[:, k])
        if opens and k == 0:
            opening = counts
        stops, proven = rule.judge(counts, opening, reached)
        samples = torch.where(stopped, samples, reached)
        decided = torch.where(stopped, decided, proven)
        stopped = stopped | stops
    return counts, opening, samples, decided, stopped


def exp_units(d: Tensor) -> Tensor:
    """floor(e^d · 2^30) of float32 d <= 0 by correctly rounded operations in a fixed order: int64."""
    d = torch.where(d > -24, d, -24.0)
    k = (d * 1.44269504 + 12582912.0) - 12582912.0
    r = (d + k * -0.693359375) + k * 2.12194440e-4
    series = torch.full_like(d, 1 / 5040)
    for power in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0):
        series = series * r + torch.tensor(power, dtype=torch.float32)
    return torch.ldexp(series, k + 30).to(torch.int64)


def vote_soft(
    totals: Tensor, cast: Tensor, logits: Tensor, *, mode: str, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``totals`` [B, L] int64 and ``cast`` [B] int32 plus what ``logits`` [B, s, L] give, in units of 2^-24.

    ``softmax``: each label its probability; ``margin``: the argmax the difference between the two greatest;
    ``weighted``: the argmax ``weights`` [B, s]. A row with a NaN gives nothing and is not counted.
    """
    z = logits.to(torch.float32)
    valid = ~z.isnan().any(-1)
    greatest = z.amax(-1, keepdim=True)
    units = torch.where(z == greatest, 1 << 30, exp_units((z - greatest).nan_to_num(neginf=-24.0)))
    scale = (((1 << 24) - 8) / units.sum(-1, keepdim=True).to(torch.float64)).to(torch.float32)
    shares = (units.to(torch.float32) * scale).to(torch.int64)
    labels = z.shape[-1]
    top = (
        torch.where(z == greatest, torch.arange(labels, device=z.device), labels)
        .amin(-1)
        .clamp(max=labels - 1)
    )
    chosen = torch.nn.functional.one_hot(top, labels)
    if mode == "margin":
        second = torch.where(chosen.bool(), -1, shares).amax(-1)
        shares = chosen * (shares.gather(-1, top[..., None])[..., 0] - second)[..., None]
    if weights is not None:
        shares = chosen * weights.to(torch.int64)[..., None]
    given = torch.where(valid[..., None], shares, 0)
    return totals + given.sum(1), cast + valid.sum(1, dtype=torch.int32)


def distance(points: Tensor, x: Tensor) -> Tensor:
    """The L2 distances of ``points`` [B, s, ...] from ``x`` [B, ...] float32: float32 [B, s]."""
    moves = (points.to(torch.float32) - x[:, None]).flatten(2)
    return point_sum(moves * moves).sqrt().to(torch.float32)


def saliency_pair(a: Tensor, b: Tensor, free: Tensor, *, down: bool = False) -> Tensor:
    """The pair of coordinates that the saliency map of JSMA rates highest, (-1, -1) if none: int64 [B, 2].

    ``a``, ``b`` [B, n] float32: gradients of the target's logit and of the sum of the others; ``free`` [B, n]
    bool: coordinates that may be chosen. The pair p < q maximises the float32 score -(a_p + a_q)·(b_p + b_q),
    both sums and the product rounded, among those with a_p + a_q > 0 > b_p + b_q (``down``: with the signs
    the other way round); the lowest p, then the lowest q, wins ties. NaN never qualifies. Builds n×n tensors.
    """
    n = a.shape[1]
    alpha = a[:, :, None] + a[:, None, :]  # [B, n, n]
    beta = b[:, :, None] + b[:, None, :]
    right = (alpha < 0) & (beta > 0) if down else (alpha > 0) & (beta < 0)
    upper = torch.ones(n, n, dtype=torch.bool, device=a.device).triu(1)
    valid = right & upper & free[:, :, None] & free[:, None, :]
    score = torch.where(valid, alpha.abs() * beta.abs(), -1.0).flatten(1)  # a valid score may underflow to 0
    if n < 2:
        return torch.full((len(a), 2), -1, device=a.device)
    best = score.argmax(1)  # the first of equals, on every device
    return torch.where(valid.flatten(1).any(1)[:, None], torch.stack([best // n, best % n], 1), -1)


def conv3x3(
    x: Tensor, weight: Tensor, bias: Tensor, *, padding: int = 0, relu: bool = False, pool: bool = False
) -> Tensor:
    """What ``conv3x3_`` writes, in the precision of its arguments: x [N, C, H, W], weight [K, C, 3, 3], bias [K]."""
    out = torch.nn.functional.conv2d(x, weight, bias, padding=padding)
    out = out.relu() if relu else out
    return torch.nn.functional.max_pool2d(out, 2) if pool else out


_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # their sum is ln 2 (fdlibm)


def words(seed: int, example_ids: Tensor, first_sample: int, samples: int, n: int) -> Tensor:
    """The 32-bit word of each (example, sample, element): int64 [B, samples, n] in [0, 2^32).

    Element e is word ``e mod 4`` of the Philox call of :func:`variates` with ``e div 4`` in place of ``e div 8``.
    """
    return _calls(seed, example_ids, first_sample, samples, torch.arange((n + 3) // 4)).flatten(-2)[..., :n]


def _calls(seed: int, example_ids: Tensor, first_sample: int, samples: int, calls: Tensor) -> Tensor:
    sample = torch.arange(first_sample, first_sample + samples, device=example_ids.device)[:, None]
    ids = example_ids[:, None, None]
    counter = torch.broadcast_tensors(calls.to(ids.device), sample, ids & _MASK, ids >> 32 & _MASK)
    return torch.stack(philox4x32_10(counter, (seed & _MASK, seed >> 32 & _MASK)), -1)


def quantile(words: Tensor, *, exponential: bool) -> Tensor:
    """Variates of the words of a shape: float32, normal, or exponential with a random sign.

    Bit 31 is the sign, bit 30 says that the magnitude is below its median, f = the other bits + 1/2 is the place in
    that half. The tail's octaves, by the exponent of f as float32, are polynomials in its mantissa, the lower half is
    one polynomial in f / 2^30 (csrc/core/quantile.h).
    """
    from . import _C

    table = torch.tensor(
        _C.quantile_table(exponential), device=words.device
    )  # [10, 32], the highest power first
    f = ((words & 0x3FFFFFFF).to(torch.float32) + 0.5).clamp(max=2.0**30 - 64)
    bits = f.view(torch.int32)
    central = (words & 0x40000000) != 0
    column = torch.where(central, 157, bits >> 23) % 32
    mantissa = (bits & 0x7FFFFF | 0x3F800000).view(torch.float32)
    t = torch.where(central, f * 2.0**-30, mantissa - 1.5)
    pair = [table[2 * i][column] * t + table[2 * i + 1][column] for i in range(5)]
    square = t * t
    fourth = square * square
    value = (pair[0] * fourth + (pair[1] * square + pair[2])) * fourth + (pair[3] * square + pair[4])
    return torch.where((words & 0x80000000) != 0, -value, value)


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
    series = torch.ones_like(y)
    for i in range(14, 0, -1):
        series = series / i * d + 1
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
            call = _calls(*address, torch.tensor([_MASK]))[:, :, 0]
            k = call[..., 0] << 20 | call[..., 1] >> 12
            u = (2 * k + 1).to(torch.float64) * 2.0**-53
            radius = radius * exponential(logarithm(u) / n)
        scale = (radius / norm).to(torch.float32)[..., None]
    points = flat + scale * z
    return (points.clamp(0, 1) if clamp else points).to(dtype).reshape(batch, samples, *shape)
