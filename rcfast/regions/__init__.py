"""Regions around examples: what a vote is taken over, who an example is, and points of its region (section 4)."""

from .base import Region
from .checks import (
    POINT_DTYPES,
    TOLERANCE,
    Clip,
    check_clip,
    check_device,
    check_examples,
    check_ids,
    check_int,
    check_number,
    check_radius,
)
from .cube import Cube
from .ids import content_ids, keyed_ids
from .sampling import as_region, sample

__all__ = [
    "POINT_DTYPES",
    "TOLERANCE",
    "Clip",
    "Cube",
    "Region",
    "as_region",
    "check_clip",
    "check_device",
    "check_examples",
    "check_ids",
    "check_int",
    "check_number",
    "check_radius",
    "content_ids",
    "keyed_ids",
    "sample",
]
