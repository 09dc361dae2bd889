"""What Tables 4 to 6 share: attacks in rows, defences in columns, success rate and noise in each cell."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from rcfast.eval import paper
from rcfast.eval.outputs import attack_rows
from rcfast.eval.outputs.cells import (
    LEGEND,
    noise_difference_text,
    noise_line,
    noise_text,
    paper_lines,
    published_note,
    rate_cell,
    seeds_line,
    seeds_text,
    yes_text,
)
from rcfast.eval.outputs.cells import legend as cells_legend
from rcfast.eval.outputs.output import Finding, Output, Tone
from rcfast.eval.outputs.records import (
    MISSING,
    NORMS,
    attack_label,
    attack_record,
    attacked_itself,
    columns,
    defences,
    label,
    median_text,
    percent,
    percent_range,
    points,
    select,
)
from rcfast.eval.outputs.table import Cell, Line, Matrix, Record, Table
from rcfast.eval.outputs.verdicts import HIGH, LOW, cells, clearly_fewer, names, noise_phrase, strongest
from rcfast.eval.results import AttackRow, Group, Results
from rcfast.eval.run.attack import Case
from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import Measured
from rcfast.eval.run.judges import judges, networks
from rcfast.eval.run.unit import Unit

NOTE = (
    "Success: share of all n adversarial examples that get the defence to answer the target (targeted) or "
    "anything but the true label (untargeted), with its 95% interval, which resamples images. Noise: mean ± "
    "standard error over the successful ones, in the attack's norm; median over all n, failures infinite."
)


class AttackTable(Output):
    group: ClassVar[Group]

    @abstractmethod
    def cases(self, ctx: Context, network: str) -> list[Case]:
        """The attacks on a network whose results the table shows."""

    @abstractmethod
    def rows(self, ctx: Context, own: Measured) -> Iterator[AttackRow]:
        """What they achieve against a defence."""

    def needs(self, ctx: Context) -> Iterable[Unit]:
        for network in networks(ctx):
            yield from attack_rows.labelled(ctx, self.cases(ctx, network))

    def measure(self, ctx: Context) -> Mapping[str, Any]:
        return {"attacks": [row for own in judges(ctx) for row in self.rows(ctx, own)]}

    def records(self, results: Results) -> list[Record]:
        """Attacks in the paper's order, then defences, readings."""
        first = {attack: index for index, attack in enumerate(paper.attacks(self.name))}
        order = {defence: index for index, defence in enumerate(defences(results))}
        name = results["dataset"]["name"]
        found = [attack_record(row, name) for row in select(results, self.group, reading=None)]
        return sorted(
            found,
            key=lambda r: (
                *(first.get(r["attack"], len(first)), r["attack"]),
                *(order[r["defence"]], r["reading"]),
            ),
        )

    def build(self, results: Results, folder: Path) -> Table | None:
        records = self.records(results)
        if not records:
            return None
        dataset = results["dataset"]["name"]
        published, seeds = paper.publishes(dataset), any(r["seeds"] for r in records)
        header: tuple[str, ...] = ("Attack", "Defence", "Success", "95% interval", "n", "Noise ± SE")
        header += ("Median noise",)
        header += ("Wrong already",) if any(r["already"] for r in records) else ()
        header += ("Vote seeds", "Same votes") if seeds else ()
        header += ("Paper", "Difference", "Agrees") if published else ()
        header += ("Paper noise", "Difference", "Agrees") if published else ()
        rows = [_texts(readings, header) for readings in _by_cell(records)]
        note = f"{NOTE} {published_note(dataset)}"
        matrix = _matrix(results, records, transferred=self.group != "imported")
        return Table(self.name, self.title, note, records, header, rows, named=2, matrix=matrix)

    def findings(self, results: Results) -> Iterator[Finding]:
        """How much less often the attacks succeed than on the undefended network."""
        for defence in defences(results):
            other = cells(results, self.group, defence)
            best = strongest(other.values())
            if best is not None and any(r["difference"] is not None for r in other.values()):
                found = self._finding(results, defence, other, best)
                unproven = found.tone == "good" and not attacked_itself(results, defence)
                yield replace(found, tone="plain") if unproven else found

    def _finding(self, results: Results, defence: str, other: dict[str, Record], best: Record) -> Finding:
        both, fewer, lower = clearly_fewer(results, self.group, defence)
        said = f"{len(fewer)} of {len(both)} {self.group} attacks succeed clearly less often than on the "
        said += "undefended network"
        if lower:
            verb = "does" if len(lower) == 1 else "do"
            said += f" ({len(lower)} more {verb}, but chance can explain it)"
        before = {a: other[a]["rate"] - other[a]["difference"] for a in both}
        if blocked := [a for a in both if other[a]["rate"] < LOW and before[a] > HIGH]:
            verb = "falls" if len(blocked) == 1 else "fall"
            said += f"; {names(blocked)} {verb} from above {HIGH:.0%} to below {LOW:.0%}"
        said += f". The strongest, {attack_label(best['attack'])}, reaches {percent(best['rate'])}"
        half = len(both) / 2
        tone: Tone = "good" if len(fewer) > half else "plain" if len(fewer) + len(lower) > half else "bad"
        return Finding(label(defence), f"{said}{noise_phrase(best)}.", tone)

    def legend(self, results: Results) -> str:
        return cells_legend(results["dataset"]["name"], LEGEND)

    def summary(self, results: Results) -> list[str]:
        records = [r for r in self.records(results) if r["reading"] == "unseen"]
        shown = [d for d in defences(results) if any(r["defence"] == d for r in records)]
        found = {(r["attack"], r["defence"]): r for r in records}
        rows = [["", *map(label, shown)]]
        for attack in dict.fromkeys(r["attack"] for r in records):
            of_attack = [found.get((attack, defence)) for defence in shown]
            rows.append([attack, *(_short(r) for r in of_attack)])
        title = f"Success rate of {self.group} attacks (95% interval)"
        return [title, *columns(rows)] if records else []


def _short(record: Record | None) -> str:
    if record is None:
        return ""
    return f"{percent(record['rate'])} ({percent_range(record['rate_low'], record['rate_high'])})"


def _by_cell(records: list[Record]) -> list[dict[str, Record]]:
    """The records of each cell by reading, cells in their order."""
    found: dict[tuple[str, str], dict[str, Record]] = {}
    for r in records:
        found.setdefault((r["attack"], r["defence"]), {})[r["reading"]] = r
    return list(found.values())


def _texts(readings: dict[str, Record], header: tuple[str, ...]) -> tuple[str, ...]:
    """A row of the Markdown and LaTeX table: our numbers by unseen votes, the paper's beside its own reading."""
    r, same = readings["unseen"], readings["defence"]
    row: tuple[str, ...] = (f"{attack_label(r['attack'])} ({NORMS[r['norm']]})", label(r["defence"]))
    row += (percent(r["rate"], r["n"]), percent_range(r["rate_low"], r["rate_high"], r["n"]))
    row += (f"{r['n']:,}", noise_text(r), median_text(r))
    row += (f"{r['already']:g}",) if "Wrong already" in header else ()
    if "Vote seeds" in header:
        row += (seeds_text(r), percent(same["rate"], same["n"]) if r["seeds"] else MISSING)
    if "Paper" in header:
        row += (percent(same["paper_rate"]), points(same["rate_difference"], same["n"]))
        row += (yes_text(same["paper_rate_agrees"]),)
        row += (MISSING if same["paper_noise"] is None else f"{same['paper_noise']:g}",)
        row += (noise_difference_text(same), yes_text(same["paper_noise_agrees"]))
    return row


def _matrix(results: Results, records: list[Record], *, transferred: bool) -> Matrix:
    """transferred: what the region-based classifier is shown without -V was made for the network."""
    dataset = results["dataset"]["name"]
    cells = {(r["unseen"]["attack"], r["unseen"]["defence"]): r for r in _by_cell(records)}
    shown = [d for d in defences(results) if any(r["defence"] == d for r in records)]
    rows: list[tuple[tuple[str, str], list[Cell | None]]] = []
    for attack in dict.fromkeys(r["attack"] for r in records):
        own = [r for r in records if r["attack"] == attack]
        same = len({r["n"] for r in own}) == 1
        of = f"{NORMS[own[0]['norm']]}" + (f" · n = {own[0]['n']:,}" if same else "")
        row = [_cell(cells.get((attack, d)), not same, dataset) for d in shown]
        rows.append(((attack_label(attack), of), row))
    marks = [_mark(results, d, records) if transferred else "" for d in shown]
    return Matrix([("Attack", ""), *zip(map(label, shown), marks, strict=True)], rows)


def _mark(results: Results, defence: str, records: list[Record]) -> str:
    """What a column's heading says of attacks by transfer alone: in this table, or in the whole run."""
    if not attacked_itself(results, defence):
        return "not attacked itself"
    own = any(r["attack"].endswith("-V") for r in records if r["defence"] == defence)
    return "here by transfer" if defence == "region" and not own else ""


def _cell(readings: dict[str, Record] | None, n_shown: bool, dataset: str) -> Cell | None:
    if readings is None or not readings["unseen"]["n"]:
        return None
    record, same, model = (readings[reading] for reading in ("unseen", "defence", "model"))
    lines = [*noise_line(record), Line("noise", "median", median_text(record))]
    if record["already"]:
        text = f"{record['already']:g} of {record['n']:,}"
        lines.append(Line("second", "wrong already", text))
    lines += seeds_line(record)
    if record["seeds"] and same["success"] != record["success"]:
        lines.append(Line("second", "chosen and judged by the same votes", percent(same["rate"], same["n"])))
    if model["success"] != same["success"]:
        lines.append(Line("second", "chosen by the network", percent(model["rate"], model["n"])))
    printed = paper.cell(dataset, record["attack"], record["defence"])
    lines += paper_lines(same, printed.success, printed.noise) if printed else []
    return rate_cell({**record, "paper_rate": same["paper_rate"]}, n_shown=n_shown, lines=lines)
