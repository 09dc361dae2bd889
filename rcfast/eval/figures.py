"""Figures 1, 2 and 4 to 9: their data as CSV and JSON, their pictures as PNG and SVG.

The pictures' bytes depend on the results alone (and on matplotlib's version). SVG files are transparent and
take their ink from the reader's light or dark setting; PNG files bring white paper along.
"""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rcfast.eval import plots
from rcfast.eval.records import Record, attack_label, attack_record, defences, label, number, rounded, select
from rcfast.eval.results import Results
from rcfast.eval.statistics import wilson
from rcfast.eval.store import write_atomic
from rcfast.eval.tables import csv_text, json_text

TITLES = {
    "figure1": "Adversarial examples on the point-based classifier",
    "figure2": "Labels of points around a benign example and around its adversarial examples",
    "figure4": "Accuracy against the length r",
    "figure5": "High-confidence adversarial examples that succeed against the region-based classifier",
    "figure6": "High-confidence targeted attack: success and noise",
    "figure7": "High-confidence untargeted attack: success and noise",
    "figure8": "Adapted attacks: success against alpha",
    "figure9": "Adapted adversarial examples that succeed against the region-based classifier",
}
GRIDS = ("figure1", "figure5", "figure9")
_CONFIDENCE = {"figure6": "T-", "figure7": "U-"}
_SIZE = (5.0, 3.5)  # inches; text stays legible when a phone shows it in 9 cm
_NEAR = 0.03  # Figure 4 looks closer where the curve falls further than this
_COLUMNS, _SHOWN = 5, 20  # histograms in a row, and at most, per attack


@dataclass(frozen=True)
class Panel:
    """One part of a figure: `draw` fills a matplotlib (sub)figure of `size` (width, height in inches)."""

    draw: Callable[[Any], None]
    size: tuple[float, float]
    title: str = ""


@dataclass(frozen=True)
class Plot:
    """One figure: its data and the panels that show it."""

    name: str
    title: str
    records: list[Record]
    panels: list[Panel]
    head: Record = field(default_factory=dict)  # what the JSON says beside the rows


def _on_axes(draw: Callable[..., None], *given: Any) -> Callable[[Any], None]:
    return lambda figure: draw(figure.add_subplot(), *given)


def _length(results: Results) -> Plot | None:
    length = results.get("length")
    if length is None or not length["radii"]:
        return None
    records: list[Record] = []
    for r, accuracy in zip(length["radii"], length["accuracy"], strict=True):
        correct = round(accuracy * length["n"])
        band = wilson(correct, length["n"])
        records.append(
            {
                "r": rounded(r),
                "accuracy": rounded(accuracy),
                "accuracy_low": rounded(band.low),
                "accuracy_high": rounded(band.high),
                "correct": correct,
                "n": length["n"],
                "point_accuracy": rounded(length["point_accuracy"]),
            }
        )
    panels = [Panel(_on_axes(plots.accuracy_against_r, length), _SIZE, "whole curve")]
    if min(length["accuracy"]) < length["point_accuracy"] - _NEAR:
        panels.insert(0, Panel(_on_axes(plots.accuracy_against_r, length, _NEAR), _SIZE, "where r is learnt"))
    head = {"r": length["r"], "learnt": length.get("learnt", True)}
    return Plot("figure4", TITLES["figure4"], records, panels, head)


def _confidence(results: Results, name: str) -> Plot | None:
    dataset = results["dataset"]["name"]
    rows = [
        row
        for row in select(results, "confidence", reading=None)
        if row["attack"].startswith(_CONFIDENCE[name])
    ]
    records = sorted(
        (attack_record(row, dataset) for row in rows),
        key=lambda r: (r["attack"], r["defence"], r["reading"], r["parameter"]),
    )
    curves = {
        defence: [r for r in records if r["defence"] == defence and r["reading"] == "defence" and r["n"]]
        for defence in defences(results)
    }
    curves = {defence: found for defence, found in curves.items() if found}
    if not curves:
        return None
    names = plots.curve_names(list(curves))
    panels = [
        Panel(_on_axes(plots.rate_curves, curves, names, "confidence k"), _SIZE, "success rate"),
        Panel(_on_axes(plots.noise_curves, curves, names, "confidence k"), _SIZE, "noise"),
    ]
    return Plot(name, TITLES[name], records, panels)


def _adapted(results: Results) -> Plot | None:
    dataset = results["dataset"]["name"]
    records = sorted(
        (attack_record(row, dataset) for row in select(results, "adapted", reading=None)),
        key=lambda r: (r["defence"], r["attack"], r["reading"], r["parameter"]),
    )
    panels = []
    for defence in defences(results):
        rows = [r for r in records if r["defence"] == defence and r["reading"] == "defence" and r["n"]]
        attacks = list(dict.fromkeys(r["attack"] for r in rows))
        curves = {attack: [r for r in rows if r["attack"] == attack] for attack in attacks}
        if curves:
            draw = _on_axes(
                plots.rate_curves, curves, plots.curve_names(attacks), "alpha (added share of noise)"
            )
            panels.append(Panel(draw, _SIZE, label(defence)))
    if not panels:
        return None
    return Plot("figure8", TITLES["figure8"], records, panels)


def _histograms(results: Results) -> Plot | None:
    data = results.get("histograms")
    if not data:
        return None
    records: list[Record] = []

    def add(attack: str, target: int | None, counts: Sequence[int]) -> None:
        head = {"attack": attack, "true_label": data["true_label"], "target": target, "m": sum(counts)}
        records.extend({**head, "label": index, "count": count} for index, count in enumerate(counts))

    add("benign", None, data["benign"])
    for attack, found in data["attacks"].items():
        for target, counts in zip(found["targets"], found["counts"], strict=True):
            add(attack, target, counts)

    def panel(attack: str) -> Panel:
        cells = min(_SHOWN, 1 + len(data["attacks"][attack]["targets"]))
        rows = -(-cells // _COLUMNS)

        def draw(figure: Any) -> None:
            axes = figure.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False)
            plots.histograms(list(axes.flat), data, attack, _SHOWN)
            figure.supxlabel("label of the point", fontsize=9)
            figure.supylabel("share of points, %", fontsize=9)

        return Panel(draw, (4.2, 0.55 + 1.05 * rows), attack_label(attack))

    panels = [panel(attack) for attack in data["attacks"]]
    head = {"r": data["r"], "m": data["m"], "true_label": data["true_label"]}
    return Plot("figure2", TITLES["figure2"], records, panels, head) if panels else None


def _grid(results: Results, grids: Path, name: str) -> Plot | None:
    grid = results.get("grids", {}).get(name)
    if grid is None or not (grids / grid["file"]).is_file():
        return None
    with np.load(grids / grid["file"], allow_pickle=False) as arrays:
        images, shown = arrays["images"], arrays["shown"].astype(bool)
    labels = list(grid["labels"])
    records: list[Record] = []
    for i, true in enumerate(labels):
        for j, target in enumerate(labels):
            delta = (images[i, j].astype(np.float64) - images[i, i]).ravel()
            seen = bool(shown[i, j] and shown[i, i])
            norms = {
                "l0": np.count_nonzero(delta),
                "l2": np.sqrt((delta**2).sum()),
                "linf": np.abs(delta).max(),
            }
            noise = {f"noise_{k}": rounded(float(v)) if seen else None for k, v in norms.items()}
            records.append({"true_label": true, "target": target, "shown": bool(shown[i, j]), **noise})
    draw = _on_axes(plots.image_grid, images, shown, labels)
    head = {
        "images": grid["file"],
        "attack": grid["attack"],
        "parameter": grid["parameter"],
        "judge": grid["judge"],
    }
    return Plot(name, TITLES[name], records, [Panel(draw, (5.4, 5.4))], head)


def build(results: Results, grids: Path) -> dict[str, Plot]:
    """The figures that were asked for and have data, by name. grids: the folder of the image grids."""
    makers: dict[str, Callable[[], Plot | None]] = {
        "figure1": lambda: _grid(results, grids, "figure1"),
        "figure2": lambda: _histograms(results),
        "figure4": lambda: _length(results),
        "figure5": lambda: _grid(results, grids, "figure5"),
        "figure6": lambda: _confidence(results, "figure6"),
        "figure7": lambda: _confidence(results, "figure7"),
        "figure8": lambda: _adapted(results),
        "figure9": lambda: _grid(results, grids, "figure9"),
    }
    asked = results.get("outputs", list(makers))
    built = {name: make() for name, make in makers.items() if name in asked}
    return {name: plot for name, plot in built.items() if plot is not None}


def _layout(count: int) -> tuple[int, int]:
    """(rows, columns) for panels side by side, at most two in a row; three stand below each other."""
    return (count, 1) if count in (1, 3) else (-(-count // 2), 2)


def render(panels: Sequence[Panel], key: str, *, endings: Sequence[str] = ("svg", "png")) -> dict[str, bytes]:
    """The panels as one picture in each format. `key` makes ids in SVG unlike those of other pictures."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = _layout(len(panels))
    width, height = max(p.size[0] for p in panels), max(p.size[1] for p in panels)
    title_height = 0.3 if len(panels) > 1 and any(p.title for p in panels) else 0.0
    with matplotlib.rc_context({**plots.RC, "svg.hashsalt": f"rcfast-{key}"}):
        figure = Figure(figsize=(columns * width, rows * (height + title_height)), layout="constrained")
        FigureCanvasAgg(figure)
        parts = figure.subfigures(rows, columns, squeeze=False).ravel()
        for panel, part in zip(panels, parts, strict=False):
            if title_height:
                part.suptitle(panel.title, fontsize=10.5, fontweight="bold", x=0.02, ha="left")
            panel.draw(part)
        pictures: dict[str, bytes] = {}
        for ending in endings:
            buffer = io.BytesIO()
            about = {"Software": None} if ending == "png" else None  # adaptive removes that of SVG
            paper = "none" if ending == "svg" else "white"
            figure.savefig(buffer, format=ending, metadata=about, dpi=160, facecolor=paper)
            pictures[ending] = buffer.getvalue()
    if "svg" in pictures:
        pictures["svg"] = adaptive(pictures["svg"].decode()).encode()
    return pictures


_STYLE = (
    f"<style>.rcfast{{color:{plots.INK}}}"
    "@media(prefers-color-scheme:dark){.rcfast{color:#e6edf3}}</style>"
)


def adaptive(svg: str) -> str:
    """Make an SVG of matplotlib take its ink from the text colour around it, or the reader's theme."""
    svg = svg.replace(plots.INK, "currentColor")
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in used else "", svg)
    # Matplotlib hashes unrounded coordinates into its ids, and a layout may differ in their last bit from one run
    # to the next: numbers in order of appearance do not.
    names = {name: f"r{i}" for i, name in enumerate(re.findall(r' id="([^"]+)"', svg))}
    svg = re.sub(r'( id="|url\(#|href="#)([^")]+)', lambda m: m[1] + names.get(m[2], m[2]), svg)
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"^.*?(?=<svg )", "", svg, flags=re.DOTALL)
    return re.sub(r"<svg ([^>]*)>", lambda m: f'<svg class="rcfast" {m[1]}>{_STYLE}', svg, count=1)


def inline(svg: bytes, key: str) -> str:
    """An SVG to stand inside an HTML page, whose width, text colour and blue (--blue) it takes.

    key: what its ids begin with, for no two on a page may be the same.
    """
    head, rest = svg.decode().replace(_STYLE, "").split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    rest = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{key}-", rest)
    return f"{head}>{rest}".replace(plots.BLUE, f"var(--blue, {plots.BLUE})")


def write(results: Results, out: Path, grids: Path | None = None) -> list[Path]:
    """Write each figure as <out>/figures/<name>.csv, .json, .png and .svg; return the paths.

    grids: the folder that holds the image grids (default: out). A figure without data is left out.

    Raises:
        StoreError: the files cannot be written.
    """
    paths: list[Path] = []
    for plot in build(results, grids or out).values():
        head = {"figure": plot.name, "title": plot.title, "dataset": results["dataset"]["name"], **plot.head}
        contents: dict[str, str | bytes] = {
            "csv": csv_text(plot.records),
            "json": json_text({**head, "rows": plot.records}),
            **render(plot.panels, plot.name),
        }
        for ending, content in contents.items():
            paths.append(out / "figures" / f"{plot.name}.{ending}")
            write_atomic(paths[-1], content)
    return paths


def describe(results: Results, name: str) -> str:
    """What a grid shows, in words: the attack and its parameter."""
    grid = results["grids"][name]
    said = attack_label(grid["attack"])
    if grid["parameter"] is not None:
        said += f" at {'alpha' if name == 'figure9' else 'k'} = {number(grid['parameter'])}"
    return said
