"""Writes csrc/core/quantile_tables.h: the polynomials of core/quantile.h, fitted with 40 digits.

    python tests/quantile_tables.py

The derivative of each polynomial interpolates the derivative of the quantile at Chebyshev's nodes of its octave,
because it is the density of the variate; its constant puts the value's error evenly on both sides.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath as mp

TERMS, CENTRAL = 10, 157
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
    """The quantile and its derivative in t, for one exponent of f: P(Z > z) = f / 2^32, or 1/2 minus that."""
    if exponent == CENTRAL:
        return (lambda t: mp.sqrt(2) * mp.erfinv(t / 2)), (
            lambda t: 1 / (4 * _density(normal(CENTRAL)[0](t)))
        )
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


def interval(exponent: int) -> tuple[Any, Any]:
    """Where t lies."""
    half = mp.mpf(1) / 2
    return (mp.mpf(0), mp.mpf(1)) if exponent == CENTRAL else (-half, half)


def fit(value: Function, slope: Function, exponent: int) -> list[Any]:
    """Coefficients, the constant first."""
    low, high = interval(exponent)
    n = TERMS - 1
    nodes = [(low + high) / 2 + (high - low) / 2 * mp.cos(mp.pi * (2 * k + 1) / (2 * n)) for k in range(n)]
    powers = mp.matrix([[t**j for j in range(n)] for t in nodes])
    slopes = mp.lu_solve(powers, mp.matrix([slope(t) for t in nodes]))
    found = [mp.mpf(0), *(slopes[j] / (j + 1) for j in range(n))]
    if exponent != CENTRAL:  # whose value is 0 at 0
        places = [low + (high - low) * k / 40 for k in range(41)]
        errors = [value(t) - mp.polyval(found[::-1], t) for t in places]
        found[0] = (max(errors) + min(errors)) / 2
    return found


def literal(value: Any) -> str:
    import numpy as np

    return f"{float(np.float32(float(value))).hex()}f"


def table(name: str, family: Callable[[int], tuple[Function, Function]]) -> str:
    columns = {exponent % 32: fit(*family(exponent), exponent) for exponent in range(126, CENTRAL + 1)}
    rows = [
        "    {" + ", ".join(literal(columns[c][TERMS - 1 - i]) for c in range(32)) + "}" for i in range(TERMS)
    ]
    return f"constexpr float {name}[kQuantileTerms][kQuantileColumns] = {{\n" + ",\n".join(rows) + "};\n"


def main() -> int:
    text = "// Made by tests/quantile_tables.py; rows: powers of t, the highest first; columns: exponent mod 32.\n"
    text += "// clang-format off\n"
    HEADER.write_text(
        text + table("kNormal", normal) + table("kExponential", exponential) + "// clang-format on\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
