"""Philox4x32-10, and points of hypercubes."""

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
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
        c0, c1, c2, c3 = (p1 >> 32 & MASK) ^ c1 ^ k0, p1 & MASK, (p0 >> 32 & MASK) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + _WEYL[0]) & MASK, (k1 + _WEYL[1]) & MASK
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
        torch.broadcast_tensors(blocks, sample, ids & MASK, ids >> 32 & MASK),
        (seed & MASK, seed >> 32 & MASK),
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
