"""What every printed number carries: intervals, comparisons and what they can show. Pure functions on arrays.

N examples, T targets of each, S vote seeds. The targets (and seeds) of one example are not independent of each
other, so examples are what is resampled, flipped and counted.
"""

from rcfast.eval.statistics.clusters import (
    clustered_mean,
    clustered_rate,
    clustered_rates,
    design_effect,
)
from rcfast.eval.statistics.components import Components, variance_components
from rcfast.eval.statistics.intervals import (
    CONFIDENCE,
    Interval,
    Mean,
    clopper_pearson,
    mean_and_error,
    share,
    wilson,
)
from rcfast.eval.statistics.noise import Curve, Median, median_noise, steps, success_curve
from rcfast.eval.statistics.paired import (
    Difference,
    Ratio,
    discordant,
    holm,
    mcnemar,
    paired_difference,
    paired_ratio,
    sign_flip,
    tango,
)
from rcfast.eval.statistics.power import (
    compatible_with,
    detectable_drop,
    examples_needed,
    fewest_discordant,
)
from rcfast.eval.statistics.printed import Comparison, compare_means, compare_rates

__all__ = [
    "CONFIDENCE",
    "Comparison",
    "Components",
    "Curve",
    "Difference",
    "Interval",
    "Mean",
    "Median",
    "Ratio",
    "clopper_pearson",
    "clustered_mean",
    "clustered_rate",
    "clustered_rates",
    "compare_means",
    "compare_rates",
    "compatible_with",
    "design_effect",
    "detectable_drop",
    "discordant",
    "examples_needed",
    "fewest_discordant",
    "holm",
    "mcnemar",
    "mean_and_error",
    "median_noise",
    "paired_difference",
    "paired_ratio",
    "share",
    "sign_flip",
    "steps",
    "success_curve",
    "tango",
    "variance_components",
    "wilson",
]
