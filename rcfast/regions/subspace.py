"""Regions of fewer dimensions than the input has: along principal components, or through any decoder."""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .. import ops
from .base import Region, clamped, named
from .checks import check_int, check_radius

WORK = 1 << 20  # coordinates in float64 at a time
FINE, FINER = 2.0**24, 2.0**28  # steps in one of a coefficient, and of a component


@dataclass(frozen=True, eq=False, repr=False)
class Subspace(Region):
    """Points x + d, d in the span of ``components`` and in the hypercube of half-width ``r``.

    For the paper's conjecture that natural examples lie near a manifold (section 7): the components are the principal
    ones of the training set (:func:`principal_components`). The direction of d is uniform in the subspace (that of a
    uniform point b of its unit ball), and its length such that the greatest coordinate is r·|b|: along every direction
    d is spread as a uniform point of the intersection is, and all directions are equally likely. Uniform in volume it
    is not: that takes a Markov chain for every point, with no end that can be proven.

    The size ``r``, a number >= 0 or a floating tensor [B], is the greatest Linf distance of a point, as a cube's.
    ``components``: floating [k, ...], orthonormal (within 1e-3), each of the shape of an example or flat.
    ``clip="clamp"`` clamps the points to [0, 1], None leaves them outside, where the subspace leads there.

    Points are the same bits on every machine: coefficients in steps of 2^-24 and components in steps of 2^-28 make
    float64 sums of products exact, in whatever order they are taken.

    Raises TypeError or ValueError, naming the argument and the value.
    """

    SIZE: ClassVar[str] = "r"
    r: float | Tensor
    components: Tensor
    clip: Literal["clamp"] | None = field(default="clamp", kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "r", check_radius(self.r))
        object.__setattr__(self, "components", _orthonormal(self.components))
        _check_clip(self.clip)

    def check(self, shape: torch.Size) -> None:
        super().check(shape)
        n = math.prod(shape[1:])
        if self.components.shape[1] != n:
            raise ValueError(
                f"components must have the {n} coordinates of an example, got {self.components.shape[1]}"
            )

    def identity(self) -> dict[str, Any]:
        found = super().identity()
        values = self.components.cpu().numpy()
        found["components"] = [*values.shape, hashlib.sha256(values.tobytes()).hexdigest()]
        return found

    def fill(
        self, out: Tensor, x: Tensor, *, seed: int | Tensor, example_ids: Tensor, first_sample: int
    ) -> None:
        batch, samples = out.shape[:2]
        origin = x.new_zeros(batch, len(self.components))
        b = x.new_empty(batch, samples, len(self.components))
        address: dict[str, Any] = {
            "seed": seed,
            "example_ids": example_ids,
            "first_sample": first_sample,
        }
        ops.sample_noise_(b, origin, 1.0, noise="l2_ball", **address)
        b = (b.flatten(0, 1).to(torch.float64) * FINE).round() / FINE
        rows = torch.arange(batch * samples, device=x.device) // samples
        r = torch.as_tensor(self.r, dtype=torch.float32, device=x.device).to(torch.float64).expand(batch)
        flat, points = x.reshape(batch, -1), out.flatten(0, 1)
        for part in _slices(len(b), flat.shape[1]):
            d = b[part] @ self.components
            reach, greatest = b[part].square().sum(1).sqrt(), d.abs().amax(1)
            scale = torch.where(greatest > 0, r[rows[part]] * reach / greatest, 0)
            found = flat[rows[part]] + d.mul_(scale[:, None])
            found = found.clamp_(0, 1) if self.clip else found
            points[part] = found.to(torch.float32).unflatten(1, out.shape[2:]).to(out.dtype)

    def vjp(
        self, x: Tensor, points: Tensor, grad: Tensor, *, seed: int, example_ids: Tensor, first_sample: int
    ) -> Tensor:
        grad = grad.float()
        return (clamped(points, grad) if self.clip else grad).sum(1)


@dataclass(frozen=True, eq=False, repr=False)
class Decoded(Region):
    """Points decode(encode(x) + b), b uniform in the L2 ball of radius ``r`` around 0: the region of any model of data.

    ``encode``: differentiable, examples [N, ...] float32 -> codes [N, k]; ``decode``: codes [N, k] -> points [N, ...].
    The size ``r``, a number >= 0 or a floating tensor [B], is the greatest distance of a code from the example's, in
    the codes' units; at r = 0 the points are what the decoder makes of the example, and not the example. ``clip`` as
    of :class:`Subspace`. Codes are the same bits on every machine, points as far as encoder and decoder round alike.

    Two of them are equal where they hold the very same functions. Raises TypeError or ValueError.
    """

    SIZE: ClassVar[str] = "r"
    r: float | Tensor
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    clip: Literal["clamp"] | None = field(default="clamp", kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "r", check_radius(self.r))
        for name in ("encode", "decode"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name} must be callable, got {getattr(self, name)!r}")
        _check_clip(self.clip)

    def identity(self) -> dict[str, Any]:
        names = {name: named(getattr(self, name)) for name in ("encode", "decode")}
        size = self.r.tolist() if isinstance(self.r, Tensor) else self.r
        return {"region": type(self).__name__, "r": size, **names, "clip": self.clip}

    def __eq__(self, other: object) -> bool:
        same = super().__eq__(other) and isinstance(other, Decoded)
        return same and self.encode is other.encode and self.decode is other.decode  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return super().__hash__()

    def fill(
        self, out: Tensor, x: Tensor, *, seed: int | Tensor, example_ids: Tensor, first_sample: int
    ) -> None:
        with torch.no_grad():
            codes = self._codes(self._code(x), out.shape[1], seed, example_ids, first_sample).flatten(0, 1)
            points = out.flatten(0, 1)
            for part in _slices(len(codes), x[0].numel() if len(x) else 1):
                points[part] = self._decoded(codes[part], x.shape[1:]).to(out.dtype)

    def vjp(
        self, x: Tensor, points: Tensor, grad: Tensor, *, seed: int, example_ids: Tensor, first_sample: int
    ) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            code = self._code(leaf)
            moved = self._codes(code.detach(), points.shape[1], seed, example_ids, first_sample)
            moved = moved - code.detach()[:, None] + code[:, None]
            made = self._decoded(moved.flatten(0, 1), x.shape[1:])
            (found,) = torch.autograd.grad(made, leaf, grad.float().flatten(0, 1))
        return found

    def _code(self, x: Tensor) -> Tensor:
        code = self.encode(x)
        if not isinstance(code, Tensor) or code.ndim != 2 or len(code) != len(x):
            shape = list(code.shape) if isinstance(code, Tensor) else type(code).__name__
            raise ValueError(f"encode must return codes of shape [{len(x)}, k], got {shape}")
        return code.float()

    def _codes(
        self, code: Tensor, samples: int, seed: int | Tensor, example_ids: Tensor, first_sample: int
    ) -> Tensor:
        """Codes [B, s, k] around ``code`` [B, k]."""
        found = code.new_empty(len(code), samples, code.shape[1])
        address: dict[str, Any] = {
            "seed": seed,
            "example_ids": example_ids,
            "first_sample": first_sample,
        }
        ops.sample_noise_(found, code, self.r, noise="l2_ball", **address)
        return found

    def _decoded(self, codes: Tensor, shape: torch.Size) -> Tensor:
        made = self.decode(codes)
        if not isinstance(made, Tensor) or made.shape != (len(codes), *shape):
            got = list(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise ValueError(f"decode must return points of shape {[len(codes), *shape]}, got {got}")
        return made.float().clamp(0, 1) if self.clip else made.float()


def principal_components(x: Tensor, k: int) -> Tensor:
    """The ``k`` directions in which examples ``x`` [N, ...] vary most: orthonormal, float64 [k, n], the most first.

    Raises TypeError or ValueError where k is not an integer from 1 to n.
    """
    flat = x.flatten(1).to(torch.float64)
    k = check_int("k", k, 1, flat.shape[1])
    flat = flat - flat.mean(0)
    vectors = torch.linalg.eigh(flat.T @ flat).eigenvectors.flip(1)[:, :k].T
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return (vectors * largest.sign()).contiguous()


def _orthonormal(components: Any) -> Tensor:
    if not isinstance(components, Tensor) or not components.is_floating_point():
        kind = components.dtype if isinstance(components, Tensor) else type(components).__name__
        raise TypeError(f"components must be a floating tensor [k, ...], got {kind}")
    if components.ndim < 2 or not 1 <= len(components) <= components[0].numel():
        raise ValueError(
            f"components must have the shape [k, ...], k from 1 to their coordinates, got {list(components.shape)}"
        )
    flat = components.detach().flatten(1).to(torch.float64)
    gram = flat @ flat.T
    away = float((gram - torch.eye(len(flat), dtype=gram.dtype, device=gram.device)).abs().max())
    if not away <= 1e-3:  # nor NaN
        raise ValueError(f"components must be orthonormal, got products that are {away:g} away from it")
    return (flat * FINER).round() / FINER


def _check_clip(clip: Any) -> None:
    if clip not in (None, "clamp"):
        raise ValueError(f"clip must be None or 'clamp', got {clip!r}")


def _slices(rows: int, n: int) -> Iterator[slice]:
    step = max(1, WORK // n)
    return (slice(start, start + step) for start in range(0, rows, step))
