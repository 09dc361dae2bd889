"""How often the intervals of clustered rates hold the truth: `python bench/coverage.py`.

Simulated evaluations: N examples, each with its own success rate (beta with the given mean and intraclass
correlation), nine targets of each. Printed: how often the naive Wilson interval, the plain percentile bootstrap and
ours (`rcfast.eval.statistics.clustered_rates`) hold the mean, and how wide they are. No clock, no machine.
"""

import argparse

import numpy as np

from rcfast.eval.statistics import clustered_rates, wilson
from rcfast.eval.statistics.resampling import resampled_sums

TARGETS = 9


def draw(rng: np.random.Generator, n: int, sets: int, rate: float, icc: float) -> np.ndarray:
    """Successes [n, TARGETS, sets] bool."""
    own = np.full((n, sets), rate)
    if icc:
        own = rng.beta(rate * (1 - icc) / icc, (1 - rate) * (1 - icc) / icc, size=(n, sets))
    return rng.random((n, TARGETS, sets)) < own[:, None]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", type=int, default=2000, help="simulated evaluations of each kind")
    parser.add_argument("--resamples", type=int, default=2000)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    print("| examples | rate | correlation | Wilson | percentile | ours | width of Wilson | of ours |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for n in (10, 20, 100):
        for rate in (0.5, 0.1, 0.02):
            for icc in (0.0, 0.1, 0.3, 0.7):
                success = draw(rng, n, arguments.sets, rate, icc)
                counts = success.sum(1).astype(float)
                naive = [wilson(int(k), n * TARGETS) for k in counts.sum(0)]
                sums = resampled_sums(counts, resamples=arguments.resamples, seed=0) / (n * TARGETS)
                ends = {
                    "Wilson": (np.array([i.low for i in naive]), np.array([i.high for i in naive])),
                    "percentile": tuple(np.quantile(sums, (0.025, 0.975), axis=0)),
                    "ours": clustered_rates(success, resamples=arguments.resamples),
                }
                cells = [f"{((low <= rate) & (rate <= high)).mean():.1%}" for low, high in ends.values()]
                widths = [
                    f"{100 * (ends[name][1] - ends[name][0]).mean():.1f}" for name in ("Wilson", "ours")
                ]
                print(f"| {n} | {rate:g} | {icc:g} | {' | '.join((*cells, *widths))} |", flush=True)


if __name__ == "__main__":
    main()
