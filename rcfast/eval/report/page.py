"""report.html: one file with everything to look at, that asks for nothing else and runs no script.

The page forbids itself any request (Content-Security-Policy), so what is seen is what is in the file.
"""

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

from rcfast.eval import outputs, paper
from rcfast.eval.outputs import drawing
from rcfast.eval.outputs.output import Finding, Output
from rcfast.eval.outputs.plot import Plot
from rcfast.eval.outputs.records import attack_label, defences, label
from rcfast.eval.outputs.table import Table
from rcfast.eval.report import markup
from rcfast.eval.report.verdict import findings, headline, key_figures
from rcfast.eval.report.wording import can_show, method, precision
from rcfast.eval.results import Results
from rcfast.eval.run.progress import duration
from rcfast.eval.run.store import write_atomic

UNTESTED = "not attacked itself"
_CSP = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write(results: Results, out: Path, run: Mapping[str, Any] | None = None) -> Path:
    """Write <out>/report.html and return its path.

    run: what is known of the run alone: `command` (default: that of this process), `started`, `version`,
    `stages`; all optional.

    Raises:
        StoreError: the file cannot be written.
    """
    path = out / "report.html"
    write_atomic(path, page(results, {"command": invocation(sys.argv), **(run or {})}, out))
    return path


def invocation(arguments: Sequence[str]) -> str:
    """The command line of this process if it is an evaluation, else nothing."""
    program = Path(arguments[0] if arguments else "")
    if program.parts[-3:] == ("rcfast", "eval", "__main__.py"):
        return shlex.join(["python", "-m", "rcfast.eval", *arguments[1:]])
    return shlex.join(["rcfast-eval", *arguments[1:]]) if program.stem == "rcfast-eval" else ""


def page(results: Results, run: Mapping[str, Any], folder: Path) -> str:
    """The report as one HTML document. folder: where the image grids lie."""
    css = files("rcfast.eval.report").joinpath("report.css").read_text("utf-8")
    name = results["dataset"]["name"]
    version = run.get("version") or results.get("environment", {}).get("rcfast", "")
    parts = [("summary", "Summary", _summary(results)), *_sections(results, folder)]
    parts.append(("method", "How it was measured", _method(results)))
    parts.append(("run", "The run", _run(results, run)))
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in parts)
    body = "".join(f'<section id="{key}"><h2>{title}</h2>{html}</section>' for key, title, html in parts)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{_CSP}">
<link rel="icon" href="data:,">
<title>Region-based classification on {escape(name)}</title>
<style>
{css}</style>
</head>
<body>
<header>
<p class="kicker">rcfast evaluation</p>
<h1>Region-based classification on {escape(name)}</h1>
{_what(results)}
<nav aria-label="Contents">{links}</nav>
</header>
<main>
{body}
</main>
<footer>Made by rcfast {escape(str(version))}. The paper:
{escape(paper.document()["authors"])}, <cite>{escape(paper.document()["title"])}</cite>,
{escape(paper.document()["source"])}.</footer>
</body>
</html>
"""


def _sections(results: Results, folder: Path) -> list[tuple[str, str, str]]:
    """Id, title and content of the parts that hold the outputs, in the order in which outputs ask for them."""
    sections: dict[str, list[tuple[Output, Table | Plot]]] = {}
    for output in outputs.of(results):
        built = output.build(results, folder)
        if built is not None:
            usual = "Tables" if isinstance(built, Table) else "Figures"
            sections.setdefault(output.section or usual, []).append((output, built))
    plots = [built for own in sections.values() for _, built in own if isinstance(built, Plot)]
    jobs = [([panel], f"{plot.name}-{i}", ("svg",)) for plot in plots for i, panel in enumerate(plot.panels)]
    pictures = {job[1]: drawn["svg"] for job, drawn in zip(jobs, drawing.render_all(jobs), strict=True)}
    explained: dict[str, str] = {}
    found = []
    for title, own in sections.items():
        html = "".join(
            _table(results, output, built, explained)
            if isinstance(built, Table)
            else _figure(results, output, built, pictures)
            for output, built in own
        )
        note = ""
        name = results["dataset"]["name"]
        if title == "Tables" and not paper.publishes(name):
            note = f'<p class="read">{escape(f"The paper reports no values for {name}.")}</p>'
        found.append((re.sub(r"\W+", "-", title.lower()), title, note + html))
    return found


def _what(results: Results) -> str:
    """What was measured, in one paragraph."""
    dataset = results["dataset"]
    shape = " × ".join(map(str, dataset["shape"]))
    said = f"{dataset['num_classes']} labels, inputs of {shape}, {dataset['sizes']['test']:,} test examples"
    measured = defences(results)
    if measured:
        said += f". Defences: {', '.join(label(d) for d in measured)}"
    attacked = _attacks(results)
    if attacked:
        said += f". {len(attacked)} attacks"
        plain = [row["n"] for row in results["attacks"] if row["group"] == "targeted"]
        said += f" with up to {max(plain):,} adversarial examples each" if plain else ""
    return f'<p class="what">{escape(said)}.</p>'


def _attacks(results: Results) -> set[str]:
    """The attacks that were made: one that is read as targeted and untargeted, moved on or combined is one."""
    rows = [
        *results.get("attacks", ()),
        *(r for r in results.get("vote_attacks", ()) if r["kind"] == "adaptive"),
    ]
    names = {re.sub(r"^[TU]-|-A$", "", row["attack"]) for row in rows}
    return {name for name in names if not name.startswith("CA-")}


def _summary(results: Results) -> str:
    cards = "".join(
        f'<div class="card"><span class="value">{escape(f.value)}</span>'
        f'<span class="name">{_text(f.name)}</span><span class="detail">{_text(f.detail)}</span></div>'
        for f in key_figures(results)
    )
    warned = "".join(f"<li>{escape(text)}</li>" for text in results.get("warnings", ()))
    warnings = f'<aside class="warnings"><h3>Warnings</h3><ul>{warned}</ul></aside>' if warned else ""
    return (
        f'<p class="headline">{_text(headline(results))}</p>'
        f'<div class="cards">{cards}</div>{warnings}{_findings(results, findings(results))}'
    )


def _findings(results: Results, said: list[Finding]) -> str:
    """The verdict, defence by defence; who was attacked by transfer alone is marked so."""
    attacked = results.get("direct")
    unproven = {label(d) for d in defences(results) if attacked is not None and not attacked.get(d)}
    words = {"good": "in its favour", "bad": "against it", "plain": ""}
    blocks = []
    for about, group in groupby(said, key=lambda finding: finding.about):
        items = "".join(
            f'<li class="{f.tone}"><span class="hidden">{words[f.tone]}: </span>{_text(f.text)}</li>'
            if words[f.tone]
            else f"<li>{_text(f.text)}</li>"
            for f in group
        )
        title = about or "The run"
        mark = f' <span class="untested">{UNTESTED}</span>' if about in unproven and attacked else ""
        blocks.append(f'<div class="verdict"><h3>{escape(title)}{mark}</h3><ul>{items}</ul></div>')
    return f'<div class="verdicts">{"".join(blocks)}</div>'


def _text(text: str) -> str:
    """Text for the page; the names of attacks do not break at their hyphens."""
    names = re.sub(r"\b[TU]-[A-Z][\w-]*", lambda m: attack_label(m[0]).replace("-", "\u2011"), text)
    return escape(names)


def _heading(output: Output) -> str:
    label = f"<span>{output.label}</span> " if output.label else ""
    return f"<h3>{label}{escape(output.title)}</h3>"


def _table(results: Results, output: Output, table: Table, explained: dict[str, str]) -> str:
    """A table; what is common to several is explained at the first of them."""
    html = (
        markup.matrix(table.matrix, table.title)
        if table.matrix
        else markup.plain_table(table.header, table.rows, table.title)
    )
    read, legend = output.read(results), output.legend(results)
    if legend in explained:
        read += f" Cells read as in {explained[legend]}."
    elif legend:
        read += f" {legend}"
        explained[legend] = output.label or output.title
    return f'<article id="{output.name}">{_heading(output)}<p class="read">{escape(read)}</p>{html}</article>'


def _figure(results: Results, output: Output, plot: Plot, pictures: Mapping[str, bytes]) -> str:
    panels = []
    for index, panel in enumerate(plot.panels):
        key = f"{plot.name}-{index}"
        svg = drawing.inline(pictures[key], key)
        title = panel.title if len(plot.panels) > 1 else ""
        named = f"{output.label}: {plot.title}" if output.label else plot.title
        alt = named + (f", {panel.title}" if panel.title else "")
        shown = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)
        heading = f"<h4>{escape(title)}</h4>" if title else ""
        panels.append(f'<div class="panel">{heading}{shown}</div>')
    said = paper.figure(plot.name, results["dataset"]["name"])["text"]
    note = f'<span class="said">The paper, {_text(said[0].lower() + said[1:])}</span>' if said else ""
    kind = " grid" if plot.square else ""
    return (
        f'<figure id="{plot.name}" class="n{len(panels)}{kind}">{_heading(output)}'
        f'<div class="panels">{"".join(panels)}</div>'
        f"<figcaption>{_text(output.read(results))} {note}</figcaption></figure>"
    )


def _method(results: Results) -> str:
    said = [*method(results), *can_show(results), *precision(results)]
    items = "".join(f"<li>{escape(text)}</li>" for text in said)
    return f'<ul class="method">{items}</ul>'


def _run(results: Results, run: Mapping[str, Any]) -> str:
    blocks = []
    if run.get("command"):
        blocks.append(f"<h3>Command</h3><pre>{escape(str(run['command']))}</pre>")
    stages = run.get("stages") or results.get("stages") or []
    if stages:
        rows = [
            (s["name"], duration(s["seconds"]), "found from an earlier run" if s["reused"] else "computed")
            for s in stages
        ]
        rows.append(("all", duration(sum(s["seconds"] for s in stages)), ""))
        blocks.append(
            "<h3>Times</h3>" + markup.plain_table(("Stage", "Time", ""), rows, "Times of the stages")
        )
    facts = [(key, str(run[key])) for key in ("started", "version") if run.get(key)]
    facts += markup.flat(results.get("environment", {}))
    blocks.append("<h3>Hardware and versions</h3>" + markup.settings(facts))
    blocks.append("<h3>Settings</h3>" + markup.settings(markup.flat(results.get("config", {}))))
    return "".join(blocks)
