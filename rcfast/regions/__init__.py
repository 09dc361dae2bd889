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
    check_size,
)
from .cube import Cube
from .ids import content_ids, keyed_ids
from .noise import Additive, Gaussian, L1Ball, L2Ball, Laplace, Sphere
from .sampling import as_region, sample
from .subspace import Decoded, Subspace, principal_components

__all__ = [
    "POINT_DTYPES",
    "TOLERANCE",
    "Additive",
    "Clip",
    "Cube",
    "Decoded",
    "Gaussian",
    "L1Ball",
    "L2Ball",
    "Laplace",
    "Region",
    "Sphere",
    "Subspace",
    "as_region",
    "check_clip",
    "check_device",
    "check_examples",
    "check_ids",
    "check_int",
    "check_number",
    "check_radius",
    "check_size",
    "content_ids",
    "keyed_ids",
    "principal_components",
    "sample",
]
