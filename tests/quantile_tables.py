"""Writes csrc/core/quantile_tables.h: the functions of core/quantile.h, polynomials fitted with 40 digits.

    python tests/quantile_tables.py

The derivative of each polynomial interpolates the derivative of the quantile at Chebyshev's nodes of its octave,
because it is the density of the variate; its constant puts the value's error evenly on both sides. The rational
function of the normal's middle has the least greatest error of that derivative.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath as mp
import numpy as np
from numpy.polynomial import Polynomial
from scipy import optimize, special

TERMS, CENTRAL = 10, 157
TAIL, DEGREE = 2.0**-7, 6  # the share of the normal's words that the rational function leaves to the octaves
HEADER = Path(__file__).resolve().parent.parent / "csrc" / "core" / "quantile_tables.h"
mp.mp.dps = 40
Function = Callable[[Any], Any]


def _normal_upper(p: Any) -> Any:
    """The z with P(Z > z) = p."""
    if p > 0.1:
        return mp.sqrt(2) * mp.erfinv(1 - 2 * p)
    return mp.findroot(lambda z: mp.log(mp.erfc(z / mp.sqrt(2)) / 2) - mp.log(p), mp.sqrt(-2 * mp.log(p)))


def _density(z: Any) -> Any:
    return mp.exp(-z * z / 2) / mp.sqrt(2 * mp.pi)


def normal(exponent: int) -> tuple[Function, Function]:
    """The quantile and its derivative in t, for one exponent of f: P(Z > z) = f / 2^32."""
    unit = mp.mpf(2) ** (exponent - 127 - 32)

    def value(t: Any) -> Any:
        return _normal_upper(unit * (t + mp.mpf(3) / 2))

    return value, lambda t: -unit / _density(value(t))


def exponential(exponent: int) -> tuple[Function, Function]:
    """The same for P(E > e) = f / 2^31, or 1 minus that."""
    if exponent == CENTRAL:
        return (lambda t: -mp.log1p(-t / 2)), (lambda t: 1 / (2 - t))
    unit = mp.mpf(2) ** (exponent - 127 - 31)
    return (lambda t: -mp.log(unit * (t + mp.mpf(3) / 2))), (lambda t: -1 / (t + mp.mpf(3) / 2))


def interval(family: Any, exponent: int) -> tuple[Any, Any]:
    """Where t lies."""
    half = mp.mpf(1) / 2
    return (mp.mpf(0), mp.mpf(1)) if family is exponential and exponent == CENTRAL else (-half, half)


def fit(value: Function, slope: Function, low: Any, high: Any) -> list[Any]:
    """Coefficients on an interval, the constant first; of 0 at 0 where the interval begins there."""
    n = TERMS - 1
    nodes = [(low + high) / 2 + (high - low) / 2 * mp.cos(mp.pi * (2 * k + 1) / (2 * n)) for k in range(n)]
    powers = mp.matrix([[t**j for j in range(n)] for t in nodes])
    slopes = mp.lu_solve(powers, mp.matrix([slope(t) for t in nodes]))
    found = [mp.mpf(0), *(slopes[j] / (j + 1) for j in range(n))]
    if low < 0:
        places = [low + (high - low) * k / 40 for k in range(41)]
        errors = [value(t) - mp.polyval(found[::-1], t) for t in places]
        found[0] = (max(errors) + min(errors)) / 2
    return found


def middle_errors(c: Any, q: Any) -> tuple[Any, Any]:
    """Relative errors of derivative and value at q = P(|Z| < z); c: edge, seven of N and six of D, as emitted."""
    u = c[0] - q * q
    over, under = Polynomial(c[1 : DEGREE + 2]), Polynomial([*c[DEGREE + 2 :], 1.0])
    ratio = over(u) / under(u)
    slope = (over.deriv()(u) - ratio * under.deriv()(u)) / under(u)
    z = np.sqrt(2) * special.erfinv(q)
    return (ratio - 2 * q * q * slope) / (np.sqrt(np.pi / 2) * np.exp(z * z / 2)) - 1, q * ratio / z - 1


def middle() -> Any:
    """z = q N(u) / D(u), u = edge - q^2, N and D of degree 6, D's first coefficient 1.

    z / q as a function of q^2 is analytic but for q^2 >= 1, where u is negative: there the poles and zeros lie, and
    the coefficients are positive. Least squares, with weights that grow where the error is greatest.
    """
    q = places(400)
    edge = (1 - TAIL) ** 2
    u, g = edge - q * q, np.sqrt(2) * special.erfinv(q) / q
    powers = np.stack([u**j for j in range(DEGREE + 1)], 1)
    unknown = np.concatenate([powers / g[:, None], -powers[:, :DEGREE]], 1)
    size = np.abs(unknown).max(0)
    found = np.linalg.lstsq(unknown / size, u**DEGREE, rcond=None)[0] / size
    weights, best = np.ones_like(q), (np.inf, found)
    for _ in range(25):

        def errors(factors: Any, found: Any = found) -> Any:
            return np.stack(middle_errors([edge, *(found * factors)], q)) * [[1], [3]]

        def residuals(factors: Any, weights: Any = weights, errors: Any = errors) -> Any:
            return 1e6 * (weights * errors(factors)).ravel()

        ones = np.ones_like(found)
        fitted = optimize.least_squares(residuals, ones, method="lm", xtol=1e-15, ftol=1e-15, max_nfev=400)
        worst = np.abs(errors(fitted.x)).max(0)
        found = found * fitted.x
        best = min(best, (worst.max(), found), key=lambda pair: pair[0])
        weights = weights * np.sqrt(worst / worst.max() + 0.03)
        weights /= weights.mean()
    return rounded(np.array([edge, *best[1]]))


def places(count: int) -> Any:
    return (1 - TAIL) * np.sin((np.arange(count) + 0.5) / count * np.pi / 2)


def rounded(found: Any) -> Any:
    """The coefficients in float32, moved by last places until no step lessens the greatest error."""
    q = places(700)

    def badness(c: Any) -> float:
        density, value = middle_errors(c.astype(np.float64), q)
        return max(float(np.abs(density).max()), 3 * float(np.abs(value).max()))

    c = found.astype(np.float32)
    least, moved = badness(c), True
    while moved:
        moved = False
        for i in range(1, len(c)):
            for towards in (-np.inf, np.inf):
                trial = c.copy()
                trial[i] = np.nextafter(c[i], np.float32(towards))
                if (bad := badness(trial)) < least:
                    c, least, moved = trial, bad, True
    return c


def rational() -> str:
    names = ["Edge", *(f"Over{i}" for i in range(DEGREE + 1)), *(f"Under{i}" for i in range(DEGREE))]
    return "".join(
        f"constexpr float kMiddle{name} = {literal(c)};\n" for name, c in zip(names, middle(), strict=True)
    )


def literal(value: Any) -> str:
    return f"{float(np.float32(float(value))).hex()}f"


def table(name: str, family: Callable[[int], tuple[Function, Function]]) -> str:
    columns = {
        exponent % 32: fit(*family(exponent), *interval(family, exponent))
        for exponent in range(126, CENTRAL + 1)
    }
    rows = [
        "    {" + ", ".join(literal(columns[c][TERMS - 1 - i]) for c in range(32)) + "}" for i in range(TERMS)
    ]
    return f"constexpr float {name}[kQuantileTerms][kQuantileColumns] = {{\n" + ",\n".join(rows) + "};\n"


def main() -> int:
    text = "// Made by tests/quantile_tables.py; rows: powers of t, the highest first; columns: exponent mod 32;\n"
    text += "// the rational function: the constant first.\n"
    text += "// clang-format off\n"
    HEADER.write_text(
        text
        + table("kNormal", normal)
        + table("kExponential", exponential)
        + rational()
        + "// clang-format on\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
