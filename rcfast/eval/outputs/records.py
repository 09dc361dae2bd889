"""From a Results row to what is shown: the record of a cell (CSV, JSON) and its numbers as text.

A record holds shares in [0, 1] and noise in the attack's norm, rounded once here, so that every output
says the same.
"""

from collections.abc import Iterable, Sequence
from math import floor, log10

from rcfast.eval import paper
from rcfast.eval.outputs.table import Record
from rcfast.eval.results import DEFENCES, Accuracy, AttackRow, PairedDifference, Reading, Results
from rcfast.eval.statistics import Comparison, Interval, Mean, compare_means, compare_rates, share, wilson

LABELS = {
    "point": "Point-based",
    "adversarial": "Adversarial training",
    "distillation": "Distillation",
    "region": "Region-based",
}
NORMS = {"L0": "L0", "L2": "L2", "Linf": "L∞"}
MINUS, DASH, MISSING = "−", "–", "—"


def label(defence: str) -> str:
    """A defence's name for people; a user's own defence keeps the name it was given."""
    return LABELS.get(defence, defence)


def attack_label(attack: str) -> str:
    """An attack's name for people: T-CW-Linf becomes T-CW-L∞."""
    return attack.replace("Linf", "L∞")


def defences(results: Results) -> list[str]:
    """Names of all defences in the results, the four of the paper first."""
    named = [*results.get("defences", ())]
    named += [row["defence"] for row in (*results.get("accuracy", ()), *results.get("attacks", ()))]
    known = [name for name in DEFENCES if name in named]
    return list(dict.fromkeys(known + named))


def attacked_itself(results: Results, defence: str) -> bool:
    """Whether some attack was made against this very defence, and not for another network only."""
    return bool(results.get("direct", {}).get(defence))


def select(
    results: Results,
    group: str | Iterable[str] | None = None,
    *,
    attack: str | None = None,
    defence: str | None = None,
    reading: Reading | None = "unseen",
) -> list[AttackRow]:
    """The attack rows that match everything given, in their order."""
    groups = {group} if isinstance(group, str) else set(group) if group is not None else None
    return [
        row
        for row in results.get("attacks", ())
        if (groups is None or row["group"] in groups)
        and (attack is None or row["attack"] == attack)
        and (defence is None or row["defence"] == defence)
        and (reading is None or row["reading"] == reading)
    ]


def rounded(value: float | None, digits: int = 6) -> float | None:
    """`value` to six significant digits, which is more than any measurement here carries."""
    return None if value is None else float(f"{value:.{digits}g}") + 0.0


def _rate(success: int, n: int) -> Record:
    interval = wilson(success, n)
    return {
        "rate": rounded(share(success, n)),
        "rate_low": rounded(interval.low),
        "rate_high": rounded(interval.high),
    }


def _seeds(per_seed: list[int], n: int) -> Record:
    shares = [count / n for count in per_seed] if n else []
    return {
        "seeds": len(shares),
        "seeds_low": rounded(min(shares)) if shares else None,
        "seeds_high": rounded(max(shares)) if shares else None,
    }


def _against_paper(name: str, printed: paper.Printed | None, found: Comparison | None) -> Record:
    """A printed value beside ours: the difference with its interval, and whether chance can explain it."""
    return {
        f"paper_{name}": printed.value if printed else None,
        f"{name}_difference": rounded(found.difference) if found else None,
        f"{name}_difference_low": rounded(found.interval.low) if found else None,
        f"{name}_difference_high": rounded(found.interval.high) if found else None,
        f"paper_{name}_agrees": found.agrees if found else None,
    }


def _against_rate(
    printed: paper.Printed | None, trials: int, rate: float | None, interval: Interval, effect: float = 1.0
) -> Record:
    found = None
    if printed is not None and rate is not None:
        how = {"effect": effect, "rounding": printed.rounding}
        found = compare_rates(rate, interval, printed.value, trials, **how)
    return _against_paper("rate", printed, found)


def _against_noise(cell: paper.Cell | None, trials: int, mean: Mean) -> Record:
    if cell is None:
        return _against_paper("noise", None, None)
    successes = round(cell.success.value * trials)
    found = compare_means(mean, cell.noise.value, successes, rounding=cell.noise.rounding)
    return _against_paper("noise", cell.noise, found)


def _versus(found: PairedDifference | None) -> Record:
    """The comparison with the undefended network on the same images."""
    low, high = found["interval"] if found else (None, None)
    return {
        "difference": rounded(found["difference"]) if found else None,
        "difference_low": rounded(low),
        "difference_high": rounded(high),
        "difference_p": rounded(found["p"]) if found else None,
    }


def attack_record(row: AttackRow, dataset: str) -> Record:
    """One cell of Tables 4 to 6 or one point of Figures 6 to 8, with the paper's cell beside it.

    `rate`, `rate_low`, `rate_high`: success rate and its 95% interval, which resamples images; `wilson_*`: the naive
    interval. `noise_n`: the successful examples, over which `noise_mean` and its standard error are taken.
    `noise_median`: over all n, failures infinite; None where half is not reached. `difference*`: from the undefended
    network, on the same images. `paper_*` are None where the paper prints nothing; a printed value agrees where the
    interval of the difference, in which its own few examples count too, reaches zero or what rounding can hide.
    """
    success, n = row["success"], row["n"]
    interval, mean = Interval(*row["interval"]), mean_of(row)
    plain = row["parameter"] is None
    published = paper.cell(dataset, row["attack"], row["defence"]) if plain else None
    trials, rate = paper.trials(row["attack"]), success / n if n else None
    low, high = row["noise_median_interval"] or (None, None)
    likely = mean.t_interval()
    return {
        "group": row["group"],
        "attack": row["attack"],
        "norm": row["norm"],
        "defence": row["defence"],
        "reading": row["reading"],
        "parameter": row["parameter"],
        "success": success,
        "n": n,
        "examples": row["examples"],
        "rate": rounded(rate),
        "rate_low": rounded(interval.low),
        "rate_high": rounded(interval.high),
        "wilson_low": rounded(row["naive_interval"][0]),
        "wilson_high": rounded(row["naive_interval"][1]),
        "already": row["already"],
        "noise_mean": rounded(mean.mean),
        "noise_se": rounded(mean.se),
        "noise_low": rounded(likely.low) if likely else None,
        "noise_high": rounded(likely.high) if likely else None,
        "noise_n": row["noise_n"],
        "noise_median": rounded(row["noise_median"]),
        "noise_median_low": rounded(low),
        "noise_median_high": rounded(high),
        **_seeds(row["per_seed"], n),
        "seeds_share": rounded(row["seeds_share"]),
        **_versus(row["versus_undefended"]),
        **_against_rate(
            published.success if published else None,
            trials,
            rate,
            interval,
            row["design_effect"] if row["attack"].startswith("T-") else 1.0,
        ),
        **_against_noise(published, trials, mean),
    }


def mean_of(row: AttackRow) -> Mean:
    """The mean noise of a row, with the number of images that it comes from."""
    return Mean(row["noise_mean"], row["noise_se"], round(row["noise_n"]), row["noise_examples"])


def accuracy_record(row: Accuracy, dataset: str) -> Record:
    """One cell of Table 3: benign accuracy with its interval, and the paper's beside it."""
    correct, n = row["correct"], row["n"]
    found, split = row["versus_undefended"], paper.split(dataset)
    printed, trials = paper.accuracy(dataset, row["defence"]), split[2] if split else 0
    return {
        "defence": row["defence"],
        "correct": correct,
        "n": n,
        **_rate(correct, n),
        **_versus(found),
        "lost": found["only_undefended"] if found else None,
        "gained": found["only_here"] if found else None,
        **_seeds(row["per_seed"], n),
        **_against_rate(printed, trials, share(correct, n), wilson(correct, n)),
    }


def percent(value: float | None, n: int = 0) -> str:
    """A share as text: 0% and 100% only when exact, one decimal, two from 2,000 examples on."""
    if value is None:
        return MISSING
    if value in (0, 1):
        return f"{value:.0%}"
    return f"{value:.{2 if n >= 2000 else 1}%}"


def percent_range(low: float, high: float, n: int = 0) -> str:
    """Two shares as text, the sign of percent once: 16.7–21.8%."""
    return f"{percent(low, n)[:-1]}{DASH}{percent(high, n)}"


def points(difference: float | None, n: int = 0) -> str:
    """A difference of shares in percentage points, always signed."""
    if difference is None:
        return MISSING
    return signed(100 * difference, 2 if n >= 2000 else 1)


def p_text(p: float) -> str:
    """A p-value with two digits, as an equation."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def median_text(record: Record) -> str:
    """The median noise with its interval; > where half of the adversarial examples never succeed."""
    value, low, high = (record[f"noise_median{end}"] for end in ("", "_low", "_high"))
    if value is None:
        return "half never succeed" if low is None else f"half never succeed (at least {low:.3g})"
    return f"{value:.3g} ({low:.3g}{DASH}{'never' if high is None else f'{high:.3g}'})"


def signed(value: float, decimals: int) -> str:
    """A difference with its sign; one that rounds to nothing is ±0."""
    text = f"{abs(value):.{decimals}f}"
    if float(text) == 0:
        return f"±{text}"
    return f"{'+' if value > 0 else MINUS}{text}"


def decimals(mean: float, se: float | None) -> int:
    """Decimals that show two digits of the standard error, or three of the mean when there is none."""
    size = abs(se) if se else abs(mean) / 10
    return min(5, max(0, 1 - floor(log10(size)))) if size > 0 else 1


def mean_text(mean: float | None, se: float | None) -> str:
    """Mean ± standard error."""
    if mean is None:
        return MISSING
    digits = decimals(mean, se)
    return f"{mean:.{digits}f}" + (f" ± {se:.{digits}f}" if se is not None else "")


def size_text(noise: float | None) -> str:
    """A size of noise with three digits; None is more than was tried."""
    return "∞" if noise is None else f"{noise:.3g}"


def number(value: float) -> str:
    """A parameter as people write it: 20, 0.25."""
    return f"{value:g}"


def listed(parts: Sequence[str]) -> str:
    """Several things in a sentence: a, b and c."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as indented lines of text, the first column left, all others right aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(
            [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
