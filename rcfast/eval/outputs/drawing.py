"""Figures as PNG and SVG, and their data as CSV and JSON.

The pictures' bytes depend on the results alone (and on matplotlib's version). SVG files are transparent and
take their ink from the reader's light or dark setting; PNG files bring white paper along.
"""

import io
import multiprocessing
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from rcfast.cores import cores
from rcfast.eval import outputs
from rcfast.eval.outputs import axes
from rcfast.eval.outputs.export import csv_text, json_text
from rcfast.eval.outputs.plot import Panel, Plot
from rcfast.eval.results import Results
from rcfast.eval.run.store import write_atomic


def build(results: Results, folder: Path) -> dict[str, Plot]:
    """The figures that have something to show, by name. folder: where the image grids lie."""
    built = {output.name: output.build(results, folder) for output in outputs.of(results)}
    return {name: plot for name, plot in built.items() if isinstance(plot, Plot)}


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
    with matplotlib.rc_context({**axes.RC, "svg.hashsalt": f"rcfast-{key}"}):
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
            # The layout of the first picture serves the others, too: finding it takes as long as drawing.
            about = {"Software": None} if ending == "png" else None  # adaptive removes that of SVG
            paper = "none" if ending == "svg" else "white"
            figure.savefig(buffer, format=ending, metadata=about, dpi=160, facecolor=paper)
            figure.set_layout_engine("none")
            pictures[ending] = buffer.getvalue()
    if "svg" in pictures:
        pictures["svg"] = adaptive(pictures["svg"].decode()).encode()
    return pictures


Job = tuple[Sequence[Panel], str, Sequence[str]]  # what `render` takes
_jobs: Sequence[Job] = ()  # of a fork: panels draw by closures, which no process could send to another


def render_all(jobs: Sequence[Job]) -> list[dict[str, bytes]]:
    """What `render` makes of each, by as many processes as there are cores."""
    global _jobs
    workers = min(len(jobs), cores())
    cuda = sys.modules.get("torch.cuda")
    if workers < 2 or sys.platform != "linux" or (cuda is not None and cuda.is_initialized()):
        return [_render(job) for job in jobs]
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_svg  # noqa: F401  (once, before the fork)

    _jobs = jobs
    with warnings.catch_warnings():  # Python 3.12 warns of threads beside a fork: drawing needs none
        warnings.simplefilter("ignore", DeprecationWarning)
        with multiprocessing.get_context("fork").Pool(workers) as pool:
            return pool.map(_nth, range(len(jobs)), chunksize=1)


def _nth(index: int) -> dict[str, bytes]:
    return _render(_jobs[index])


def _render(job: Job) -> dict[str, bytes]:
    panels, key, endings = job
    return render(panels, key, endings=endings)


_STYLE = (
    f"<style>.rcfast{{color:{axes.INK}}}@media(prefers-color-scheme:dark){{.rcfast{{color:#e6edf3}}}}</style>"
)


def adaptive(svg: str) -> str:
    """Make an SVG of matplotlib take its ink from the text colour around it, or the reader's theme."""
    svg = svg.replace(axes.INK, "currentColor")
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
    return f"{head}>{rest}".replace(axes.BLUE, f"var(--blue, {axes.BLUE})")


def write(results: Results, out: Path) -> list[Path]:
    """Write each figure as <out>/figures/<name>.csv, .json, .png and .svg; return the paths.

    Raises:
        StoreError: the files cannot be written.
    """
    paths: list[Path] = []
    plots = list(build(results, out).values())
    pictures = render_all([(plot.panels, plot.name, ("svg", "png")) for plot in plots])
    for plot, drawn in zip(plots, pictures, strict=True):
        head = {"figure": plot.name, "title": plot.title, "dataset": results["dataset"]["name"], **plot.head}
        contents: dict[str, str | bytes] = {
            "csv": csv_text(plot.records),
            "json": json_text({**head, "rows": plot.records}),
            **drawn,
        }
        for ending, content in contents.items():
            paths.append(out / "figures" / f"{plot.name}.{ending}")
            write_atomic(paths[-1], content)
    return paths
