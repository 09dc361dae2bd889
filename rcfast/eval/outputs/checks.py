"""The checks: can these rates be trusted? Each with what was measured, why it matters and what to do."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rcfast.eval.outputs import attack_rows, check_rows
from rcfast.eval.outputs.output import Finding, Output
from rcfast.eval.outputs.table import Cell, Line, Matrix, Record, Table
from rcfast.eval.results import Results
from rcfast.eval.run.context import Context
from rcfast.eval.run.diagnosis import ExaminedNetwork, noisy
from rcfast.eval.run.judges import judges, networks
from rcfast.eval.run.unit import Unit

SIGNS = {"pass": "✓", "fail": "✗", "not applicable": "–"}
MOST = 6  # failures that are named one by one


class Checks(Output):
    name = "checks"
    title = "Checks of the evaluation"
    reading = (
        "A low success rate is worth something only where the attack worked. Each line is a question to the attacks "
        "and classifiers of this run; what fails is told one by one, with what to do."
    )

    def needs(self, ctx: Context) -> Iterable[Unit]:
        for network in networks(ctx):
            yield ExaminedNetwork(network)
            cases = attack_rows.plain(ctx, network)
            yield from attack_rows.labelled(ctx, [*cases, *attack_rows.confident(ctx, network)])
            for case in cases if ctx.config.checks.examples else []:
                yield from check_rows.looked_at(ctx, case)
        for own in judges(ctx) if ctx.config.checks.examples else []:
            yield from (noisy(ctx, own, case) for case in attack_rows.plain(ctx, own.attacked))

    def measure(self, ctx: Context) -> Mapping[str, Any]:
        return {"checks": [check.record() for check in check_rows.made(ctx)]}

    def build(self, results: Results, folder: Path) -> Table | None:
        records = _sorted(results)
        if not records:
            return None
        failed = [r for r in records if r["verdict"] == "fail"]
        rows: list[tuple[str, ...]]
        rows = [(r["check"], r["about"], r["verdict"], r["measured"]) for r in failed]
        rows += [
            (name, _others(count, failed, name), verdict, "") for name, verdict, count in _counts(records)
        ]
        flat = [{**r, "numbers": "; ".join(f"{k} = {v}" for k, v in r["numbers"].items())} for r in records]
        note = f"{_tally(records)}. Why each matters and what to do stand in the report and the data files."
        header = ("Check", "Asked of", "Verdict", "Measured")
        return Table(
            self.name, self.title, note, flat, header, rows, named=4, matrix=_matrix(records, failed)
        )

    def findings(self, results: Results) -> Iterator[Finding]:
        records = _sorted(results)
        failed = [r for r in records if r["verdict"] == "fail"]
        for r in failed[:MOST]:
            yield Finding("Checks", f"{_capital(r['check'])} ({r['about']}): {r['measured']}.", "bad")
        if records:
            more = f", {len(failed) - MOST} more in the table of checks" if len(failed) > MOST else ""
            yield Finding("Checks", f"{_tally(records)}{more}.", "plain" if failed else "good")

    def summary(self, results: Results) -> list[str]:
        records = _sorted(results)
        failed = [r for r in records if r["verdict"] == "fail"]
        lines = [f"  {r['check']} ({r['about']}): {r['measured']}" for r in failed]
        return [f"Checks: {_tally(records)}", *lines] if records else []


def failures(results: Results) -> list[Record]:
    """The checks that failed."""
    return [r for r in results.get("checks", ()) if r["verdict"] == "fail"]


def _sorted(results: Results) -> list[Record]:
    """All checks, those of a kind together, in the order in which the kinds first appear."""
    records = results.get("checks", [])
    kinds = list(dict.fromkeys(r["check"] for r in records))
    return sorted(records, key=lambda r: kinds.index(r["check"]))


def _tally(records: list[Record]) -> str:
    count = Counter(r["verdict"] for r in records)
    said = f"{count['pass']} pass, {count['fail']} fail"
    return said + (f", {count['not applicable']} do not apply" if count["not applicable"] else "")


def _counts(records: list[Record]) -> list[tuple[str, str, int]]:
    """(check, verdict, how often) of what did not fail."""
    count = Counter((r["check"], r["verdict"]) for r in records if r["verdict"] != "fail")
    return [(name, verdict, number) for (name, verdict), number in count.items()]


def _others(count: int, failed: list[Record], name: str) -> str:
    return f"{count} {'others' if any(r['check'] == name for r in failed) else 'asked'}"


def _matrix(records: list[Record], failed: list[Record]) -> Matrix:
    """Failures in full, then one line for each kind with what its passes measured."""
    rows: list[tuple[tuple[str, str], list[Cell | None]]] = []
    for r in failed:
        advice = (Line("text", "why", r["why"]), Line("text", "do", r["advice"]))
        cells: list[Cell | None] = [
            Cell("✗ fail", lines=(Line("text", "", r["measured"]),)),
            Cell(lines=advice),
        ]
        rows.append(((_capital(r["check"]), r["about"]), cells))
    for name, verdict, number in _counts(records):
        own = [r for r in records if r["check"] == name and r["verdict"] == verdict]
        said = own[0]["measured"] if number == 1 else _others(number, failed, name)
        value = f"{SIGNS[verdict]} {verdict}"
        why: list[Cell | None] = [
            Cell(value, lines=(Line("text", "", said),)),
            Cell(lines=(Line("text", "why", own[0]["why"]),)),
        ]
        rows.append(((_capital(name), own[0]["about"] if number == 1 else ""), why))
    return Matrix([("Check", ""), ("Verdict", ""), ("What it means", "")], rows, narrow=True)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


OUTPUT = Checks()
