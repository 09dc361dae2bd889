"""Who an example is: a hash of its content."""

import hashlib
from functools import lru_cache

import torch
from torch import Tensor

_BLOCK = 1 << 20  # coordinates hashed at a time, so that memory does not grow with the batch


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
    position = _positions(n, x.device)
    for start in range(0, batch, step):
        content = x[start : start + step].reshape(-1, n).to(torch.float32) + 0.0
        words = content.contiguous().view(torch.int32).to(torch.int64).add_(position)
        words = _mix(words.mul_(_signed(0xD6E8FEB86659FD93)), 32, 0xD6E8FEB86659FD93)
        ids[start : start + step] = words.sum(1)
    return _splitmix(ids.add_(n))


@lru_cache(maxsize=4)
def _positions(n: int, device: torch.device) -> Tensor:
    """A word for each of n coordinates [n]; made on the host, so that it is there on every stream of the device."""
    with torch.inference_mode(False):
        return _splitmix(torch.arange(1, n + 1, device="cpu").mul_(_signed(0x9E3779B97F4A7C15))).to(device)


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
