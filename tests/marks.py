"""Which values of a parametrised test are for the whole check alone."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def slow_where(long: Callable[[Any], bool], values: Iterable[Any]) -> list[Any]:
    """The values, those that take long marked `slow`: others of the same test are tried in short runs too."""
    return [pytest.param(value, marks=pytest.mark.slow) if long(value) else value for value in values]
