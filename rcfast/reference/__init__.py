"""The slow, obvious twin of every operator in :mod:`rcfast.ops`, in plain torch: the oracle of the tests.

Every twin allocates what it likes and agrees with the native kernels bit by bit, on any device; but for
:func:`conv3x3`, which they follow up to rounding.
"""

from .noise import distance, exponential, logarithm, point_sum, quantile, sample_noise, words
from .others import conv3x3, saliency_pair
from .sampling import philox4x32_10, sample_hypercube, variates
from .voting import exp_units, judge, vote, vote_soft

__all__ = [
    "conv3x3",
    "distance",
    "exp_units",
    "exponential",
    "judge",
    "logarithm",
    "philox4x32_10",
    "point_sum",
    "quantile",
    "saliency_pair",
    "sample_hypercube",
    "sample_noise",
    "variates",
    "vote",
    "vote_soft",
    "words",
]
