"""How much of a rate's uncertainty comes from the vote's randomness, and how much from which examples were drawn."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Components:
    """Variances of one label's success: between examples, between vote seeds, and what is left (both at once).

    rate_se: standard error of the rate over all seeds and examples, were both drawn anew. seeds_share: which share
    of its square comes from the seeds. seed_sd: by how much the rate of one seed varies on these examples.
    """

    examples: float
    seeds: float
    residual: float
    rate_se: float
    seeds_share: float
    seed_sd: float


def variance_components(success: np.ndarray) -> Components | None:
    """Split the variance of success [S, N, ...] (bool or shares; trailing axes are averaged); None for S or N < 2.

    A two-way layout without repetition, examples and seeds both random; moment estimators of the analysis of
    variance, negative ones set to 0. Each example's votes draw their own numbers, so that seeds as such should
    carry nothing and the residual is the vote's chance for each example.

    Source: S. R. Searle, G. Casella, C. E. McCulloch, Variance Components, 1992, chapter 4.
    """
    shares = np.asarray(success, np.float64)
    if shares.ndim < 2 or min(shares.shape[:2]) < 2:
        return None
    shares = shares.reshape(*shares.shape[:2], -1).mean(2)
    s, n = shares.shape
    rows, columns, mean = shares.mean(1), shares.mean(0), shares.mean()
    between_seeds = n * float(((rows - mean) ** 2).sum()) / (s - 1)
    between_examples = s * float(((columns - mean) ** 2).sum()) / (n - 1)
    rest = shares - rows[:, None] - columns[None] + mean
    residual = float((rest**2).sum()) / ((s - 1) * (n - 1))
    examples = max(0.0, (between_examples - residual) / s)
    seeds = max(0.0, (between_seeds - residual) / n)
    of_seeds = seeds / s + residual / (s * n)
    total = examples / n + of_seeds
    return Components(
        examples=examples,
        seeds=seeds,
        residual=residual,
        rate_se=math.sqrt(total),
        seeds_share=of_seeds / total if total else 0.0,
        seed_sd=math.sqrt(seeds + residual / n),
    )
