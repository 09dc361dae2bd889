"""One panel of a figure: what goes onto a pair of axes, in a style that holds on light and dark paper.

Lines, text and ticks are drawn in INK, which SVG files turn into the reader's text colour.
"""

from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np

from rcfast.eval.outputs.records import attack_label, label, number
from rcfast.eval.outputs.table import Record
from rcfast.eval.results import CertifiedCase, Histograms, Length
from rcfast.eval.statistics import wilson

INK = "#24292e"
# Okabe and Ito's colours, told apart by colour-blind readers too; markers repeat what the colour says.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"
GREY = "#8a9099"
STYLES = {
    "point": (GREY, "s"),
    "adversarial": (ORANGE, "^"),
    "distillation": (GREEN, "D"),
    "region": (BLUE, "o"),
    "T-CW-L0-A": (ORANGE, "^"),
    "T-CW-L2-A": (BLUE, "o"),
    "T-CW-Linf-A": (GREEN, "D"),
}
OTHERS = ((RED, "v"), (PURPLE, "P"), (SKY, "X"), (ORANGE, "<"), (GREEN, ">"), (BLUE, "*"))
NOISE_AXIS = {"L0": "mean noise, L0 (changed coordinates)", "L2": "mean noise, L2", "Linf": "mean noise, L∞"}

RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.7,
    "lines.markersize": 4.6,
    "svg.fonttype": "path",
    "svg.image_inline": True,
    "text.parse_math": False,  # a name with a $ is a name
}


def styles(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """(colour, marker) of each name: the known ones always look the same."""
    others = [name for name in names if name not in STYLES]
    return STYLES | dict(zip(others, islice(cycle(OTHERS), len(others)), strict=True))


def soft_grid(ax: Any) -> None:
    ax.grid(axis="y", color=INK, alpha=0.12, linewidth=0.7)
    ax.set_axisbelow(True)


def legend(ax: Any, columns: int = 2) -> None:
    """A legend above the axes, where it hides no data."""
    handles, names = ax.get_legend_handles_labels()
    if handles:
        ax.legend(
            handles,
            names,
            loc="lower left",
            bbox_to_anchor=(-0.02, 1.0),
            ncols=min(columns, len(names)),
            handlelength=1.8,
            columnspacing=1.2,
            borderaxespad=0.2,
        )


def accuracy_against_r(ax: Any, length: Length, below: float | None = None) -> None:
    """Figure 4: validation accuracy of the vote against r, its 95% band, C's line and the learnt r.

    below: how far (a share) under C's line the axis ends; None shows the whole curve.
    """
    n, point = length["n"], length["point_accuracy"]
    radii, accuracy = np.asarray(length["radii"]), np.asarray(length["accuracy"])
    bands = [wilson(round(share * n), n) for share in accuracy]
    low, high = np.array([b.low for b in bands]), np.array([b.high for b in bands])
    ax.fill_between(radii, 100 * low, 100 * high, color=BLUE, alpha=0.14, linewidth=0, label="95% interval")
    few = len(radii) <= 25
    ax.plot(radii, 100 * accuracy, color=BLUE, marker="o" if few else None, label="region-based")
    ax.axhline(
        100 * point, color=GREY, linestyle="--", linewidth=1.4, label=f"point-based ({100 * point:.2f}%)"
    )
    r = length["r"]
    word = "learnt" if length.get("learnt", True) else "given"
    ax.axvline(r, color=RED, linestyle=":", linewidth=1.5, label=f"{word} r = {number(r)}")
    if below is not None:
        seen = (accuracy >= point - below) | (radii <= r)
        ax.set_xlim(radii.min() - 0.02 * r, radii[seen].max() * 1.1 + 0.01)
        ax.set_ylim(
            100 * (min(accuracy[seen].min(), point) - below), 100 * min(1.002, high[seen].max() + 0.1 * below)
        )
    ax.set_xlabel("length r (half-width of the region)")
    ax.set_ylabel("accuracy on validation examples, %")
    soft_grid(ax)
    legend(ax)


def rate_curves(ax: Any, curves: dict[str, list[Record]], names: dict[str, str], x: str) -> None:
    """Success rate against a parameter, one line per key of `curves`, with 95% bands."""
    look = styles(list(curves))
    for key, records in curves.items():
        colour, marker = look[key]
        at = [r["parameter"] for r in records]
        low, high = ([100 * r[end] for r in records] for end in ("rate_low", "rate_high"))
        ax.fill_between(at, low, high, color=colour, alpha=0.14, linewidth=0)
        rates = [100 * r["rate"] for r in records]
        ax.plot(at, rates, color=colour, marker=marker, label=names[key], clip_on=False, zorder=3)
    ax.set_ylim(0, 100)
    ax.set_yticks(range(0, 101, 20))
    ax.set_xlabel(x)
    ax.set_ylabel("success rate, %")
    soft_grid(ax)
    legend(ax, 3 if len(curves) == 3 else 2)


def noise_curves(ax: Any, curves: dict[str, list[Record]], names: dict[str, str], x: str) -> None:
    """Mean noise of the successful examples against a parameter, with 95% intervals of the mean."""
    look = styles(list(curves))
    for key, records in curves.items():
        colour, marker = look[key]
        shown = [r for r in records if r["noise_mean"] is not None]
        at, mean = [r["parameter"] for r in shown], [r["noise_mean"] for r in shown]
        ends = [(r["noise_low"], r["noise_high"]) for r in shown]
        below = [0.0 if low is None else m - low for m, (low, _) in zip(mean, ends, strict=True)]
        above = [0.0 if high is None else high - m for m, (_, high) in zip(mean, ends, strict=True)]
        ax.errorbar(
            at,
            mean,
            yerr=[below, above],
            color=colour,
            marker=marker,
            label=names[key],
            capsize=2,
            elinewidth=1,
        )
    norms = {r["norm"] for records in curves.values() for r in records}
    ax.set_ylim(bottom=0)
    ax.set_xlabel(x)
    ax.set_ylabel(NOISE_AXIS[norms.pop()] if len(norms) == 1 else "mean noise")
    soft_grid(ax)
    legend(ax)


def security_curves(
    ax: Any, curves: dict[str, Any], names: dict[str, str], norm: str, random: dict[str, bool]
) -> None:
    """Accuracy left against the noise allowed, one line for each defence with 95% bands; dotted by known votes."""
    look = styles(list(curves))
    for key, curve in curves.items():
        colour, _ = look[key]
        at = np.asarray(curve["at"])
        low, high = (100 * (1 - np.asarray(curve[end])) for end in ("high", "low"))
        ax.fill_between(at, low, high, step="post", color=colour, alpha=0.14, linewidth=0)
        left = 100 * (1 - np.asarray(curve["rate"]))
        ax.step(at, left, where="post", color=colour, label=names[key], zorder=3)
        if random[key]:
            known = 100 * (1 - np.asarray(curve["known"]))
            ax.step(at, known, where="post", color=colour, linestyle=":", linewidth=1.2)
    ends = [_end(curve) for curve in curves.values()]
    ax.set_xlim(0, 1.05 * max(ends) or 1)
    ax.set_ylim(-1, 101)
    ax.set_yticks(range(0, 101, 20))
    ax.set_xlabel(f"largest {norm} noise allowed")
    ax.set_ylabel("accuracy left, %")
    soft_grid(ax)
    legend(ax)


def certified_curves(ax: Any, cases: Sequence[CertifiedCase], norm: str) -> None:
    """Certified accuracy against the radius, one line for each region; dotted for the plain network."""
    look = styles(list(dict.fromkeys(case["region"] for case in cases)))
    for case in cases:
        colour, _ = look[case["region"]]
        rate = 100 * np.asarray(case["correct"]) / case["n"]
        at = np.asarray([*case["at"], max(case["at"])])
        line = {"linestyle": "-" if case["noisy"] else ":", "linewidth": 1.6 if case["noisy"] else 1.3}
        name = case["region"] if case["noisy"] or not any(c["noisy"] for c in cases) else None
        ax.step(at, [*rate, 0.0], where="pre", color=colour, label=name, **line)
    ax.set_xlim(0, 1.05 * max(max(case["at"]) for case in cases) or 1)
    ax.set_ylim(0, 100)
    ax.set_yticks(range(0, 101, 20))
    ax.set_xlabel(f"certified {norm.replace('inf', '∞')} radius")
    ax.set_ylabel("certified accuracy, %")
    soft_grid(ax)
    legend(ax, columns=1)


def _end(curve: dict[str, list[float]]) -> float:
    """The noise from which on the curve stays as it is."""
    rates = list(zip(curve["rate"], curve["known"], strict=True))
    return next((at for at, pair in zip(curve["at"], rates, strict=True) if pair == rates[-1]), 0.0)


def histograms(axes: Sequence[Any], data: Histograms, attack: str, shown: int) -> None:
    """Figure 2 for one attack: labels of points around the benign example, then around each target's.

    The true label's bar is blue, the target's orange; axes without an example are blank.
    """
    found = data["attacks"][attack]
    cells = [(None, data["benign"]), *zip(found["targets"], found["counts"], strict=True)]
    for index, ax in enumerate(axes):
        if index >= min(len(cells), shown):
            ax.axis("off")
            continue
        target, counts = cells[index]
        total = sum(counts) or 1
        colours = [GREY] * len(counts)
        colours[data["true_label"]] = BLUE
        if target is not None and target != data["true_label"]:
            colours[target] = ORANGE
        ax.bar(range(len(counts)), [100 * c / total for c in counts], color=colours, width=0.82)
        ax.set_title(
            "benign" if target is None else f"target {target}", fontsize=8.5, fontweight="normal", pad=3
        )
        ax.set_ylim(0, 100)
        ax.set_yticks([0, 50, 100])
        ax.set_xlim(-0.7, len(counts) - 0.3)
        ax.set_xticks(_label_ticks(len(counts)))
        ax.tick_params(labelsize=7, pad=1.5, length=2)
        soft_grid(ax)


def _label_ticks(count: int) -> list[int]:
    return list(range(0, count, 1 if count <= 4 else 3 if count <= 12 else max(1, count // 4)))


def curve_names(keys: Sequence[str]) -> dict[str, str]:
    """What the lines are called: defences and attacks by their names for people."""
    return {key: attack_label(label(key)) for key in keys}
