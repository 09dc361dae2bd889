"""Regions whose points are x + noise, the noise the same for every x: smoothing's, and balls."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor

from .. import ops
from .base import Region, clamped
from .checks import check_size

VARIATES = 2  # raised when a seed gives other noise: part of the key of everything that is kept


@dataclass(frozen=True, eq=False, repr=False)
class Additive(Region):
    """x + noise. ``clip="clamp"`` clamps the points to [0, 1], None leaves them as they are.

    A clamped region is the other one for the model that clamps its input first: what is proven of a vote with
    noise holds for both. Points in float32 are the sums of x and float32 noise, rounded.
    """

    NOISE: ClassVar[str]  # of rcfast.ops.sample_noise_
    POSITIVE: ClassVar[bool] = False  # whether the size may not be 0
    clip: Literal["clamp"] | None = field(default=None, kw_only=True)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "variates": VARIATES}

    def __post_init__(self) -> None:
        object.__setattr__(self, self.SIZE, check_size(self.SIZE, self.size, positive=self.POSITIVE))
        if self.clip not in (None, "clamp"):
            raise ValueError(f"clip must be None or 'clamp', got {self.clip!r}")

    def fill(
        self, out: Tensor, x: Tensor, *, seed: int | Tensor, example_ids: Tensor, first_sample: int
    ) -> None:
        ops.sample_noise_(
            *(out, x, self.size),
            noise=self.NOISE,
            seed=seed,
            example_ids=example_ids,
            first_sample=first_sample,
            clamp=self.clip is not None,
        )

    def vjp(
        self, x: Tensor, points: Tensor, grad: Tensor, *, seed: int, example_ids: Tensor, first_sample: int
    ) -> Tensor:
        grad = grad.float()
        return (grad if self.clip is None else clamped(points, grad)).sum(1)


@dataclass(frozen=True, eq=False, repr=False)
class Gaussian(Additive):
    """Normal noise of standard deviation ``sigma`` in every coordinate (Cohen, Rosenfeld and Kolter, ICML 2019).

    The size ``sigma``, > 0, a number or a floating tensor [B], is in the units of the input: on average a point
    lies sigma·sqrt(n) away in L2. A coordinate takes one of 2^32 equally likely quantiles, up to 6.3 sigma.

    Raises TypeError or ValueError, naming the argument and the value.
    """

    SIZE: ClassVar[str] = "sigma"
    NOISE: ClassVar[str] = "gaussian"
    POSITIVE: ClassVar[bool] = True
    sigma: float | Tensor

    def reach(self, n: int) -> float | Tensor:
        return 2 * self.sigma * math.sqrt(n)

    def spread(self, n: int) -> float | Tensor:
        return math.sqrt(3) * self.sigma


@dataclass(frozen=True, eq=False, repr=False)
class Laplace(Additive):
    """Laplace noise of scale ``scale`` in every coordinate: density exp(-|t| / scale) / (2·scale) (Lecuyer et al.,
    S&P 2019; Teng et al., 2020).

    The size ``scale``, > 0, a number or a floating tensor [B], is the mean absolute noise of a coordinate; its
    standard deviation is sqrt(2)·scale. A coordinate takes one of 2^32 equally likely quantiles, up to 22.2 scale.

    Raises TypeError or ValueError, naming the argument and the value.
    """

    SIZE: ClassVar[str] = "scale"
    NOISE: ClassVar[str] = "laplace"
    POSITIVE: ClassVar[bool] = True
    scale: float | Tensor

    def reach(self, n: int) -> float | Tensor:
        return 2 * self.scale * math.sqrt(2 * n)

    def spread(self, n: int) -> float | Tensor:
        return math.sqrt(6) * self.scale


@dataclass(frozen=True, eq=False, repr=False)
class L2Ball(Additive):
    """Uniform in the L2 ball of radius ``r``: a normal vector's direction, at the distance r·u^(1/n), u uniform.

    The size ``r``, a number >= 0 or a floating tensor [B], is the greatest L2 distance of a point (to rounding: the
    last bit of a coordinate); in n dimensions nearly all points lie near it, the median at r·2^(-1/n).

    Source: Muller, "A note on a method for generating points uniformly on n-dimensional spheres", CACM 1959.
    Raises TypeError or ValueError, naming the argument and the value.
    """

    SIZE: ClassVar[str] = "r"
    NOISE: ClassVar[str] = "l2_ball"
    r: float | Tensor

    def reach(self, n: int) -> float | Tensor:
        return self.r

    def spread(self, n: int) -> float | Tensor:
        return self.r * math.sqrt(3 / (n + 2))


@dataclass(frozen=True, eq=False, repr=False)
class L1Ball(Additive):
    """Uniform in the L1 ball of radius ``r``: exponentials of random sign divided by the sum of their magnitudes,
    times r·u^(1/n), u uniform.

    The size ``r``, a number >= 0 or a floating tensor [B], is the greatest L1 distance of a point (to rounding), and
    nearly its distance in n dimensions: a coordinate moves by r/(n+1) on average.

    Source: Barthe et al., "A probabilistic approach to the geometry of the l_p^n-ball", Annals of Probability 2005.
    Raises TypeError or ValueError, naming the argument and the value.
    """

    SIZE: ClassVar[str] = "r"
    NOISE: ClassVar[str] = "l1_ball"
    r: float | Tensor

    def reach(self, n: int) -> float | Tensor:
        return self.r

    def spread(self, n: int) -> float | Tensor:
        return self.r * math.sqrt(6 / ((n + 1) * (n + 2)))


@dataclass(frozen=True, eq=False, repr=False)
class Sphere(Additive):
    """Uniform on the L2 sphere of radius ``r``: a normal vector's direction (Muller, CACM 1959).

    The size ``r``, a number >= 0 or a floating tensor [B], is the L2 distance of every point (to rounding).

    Raises TypeError or ValueError, naming the argument and the value.
    """

    SIZE: ClassVar[str] = "r"
    NOISE: ClassVar[str] = "sphere"
    r: float | Tensor

    def reach(self, n: int) -> float | Tensor:
        raise ValueError(
            f"weights = 'distance' tells nothing where all points are equally far, as in {self!r}"
        )

    def spread(self, n: int) -> float | Tensor:
        return self.r * math.sqrt(3 / n)
