"""Attacks on the vote: whoever knows that a vote decides, and over which region, attacks that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rcfast.eval.outputs import attack_rows, transfer, vote_rows
from rcfast.eval.outputs.output import Finding, KeyFigure, Output, Tone
from rcfast.eval.outputs.records import (
    LABELS,
    MISSING,
    NORMS,
    attack_label,
    columns,
    label,
    mean_text,
    percent,
    percent_range,
    rounded,
)
from rcfast.eval.outputs.table import Bar, Cell, Line, Matrix, Record, Table
from rcfast.eval.outputs.verdicts import HIGH
from rcfast.eval.results import Results
from rcfast.eval.run import vote_attack
from rcfast.eval.run.context import Context
from rcfast.eval.run.judges import judges
from rcfast.eval.run.protocol import NORMS as NORM_NAMES
from rcfast.eval.run.unit import Unit
from rcfast.eval.run.vote_attack import JudgedExamples

SECTION = "Attacks on the vote"
KINDS = {
    "transfer": "made for the network",
    "adaptive": "made for the vote",
    "best": "the best of both",
    "random": "random noise of its size",
    "network": "on a network, no region",
}


class VoteAttacks(Output):
    name = "vote_attacks"
    title = "Attacks that know the vote"
    section = SECTION
    reading = (
        "The attacker knows the network, r and m; exact votes under three seeds and example ids that it never saw are "
        "the judges. Beside that, what is said by the votes that it could see, and by unseen ones once the image is "
        "rounded to 8 bits. Noise is the mean over what most judges accept; times network: its ratio to the least "
        "noise found on the undefended network for the same examples and targets (in rows of a network: to that of "
        "the paper's attacks on it). Share: the points of the region that say the target, median and least. The best "
        "transferred example is the least noisy that the visible votes accept, of all targeted attacks, confidences "
        "and alphas. Of random noise any wrong label counts."
    )

    def needs(self, ctx: Context) -> Iterable[Unit]:
        return needs(ctx)

    def measure(self, ctx: Context) -> Mapping[str, Any]:
        return {"vote_attacks": list(vote_rows.rows(ctx))} if vote_attack.names(ctx) else {}

    def build(self, results: Results, folder: Path) -> Table | None:
        records = _records(results)
        if not records:
            return None
        header: tuple[str, ...] = (
            "Attack",
            "Against",
            "Success",
            "95% interval",
            "n",
            "8 bits",
            "Visible votes",
            "Noise ± SE",
        )
        header += ("Times network", "Share of region", "Queries")
        rows = [_texts(r) for r in records]
        return Table(
            self.name, self.title, self.reading, records, header, rows, named=2, matrix=_matrix(records)
        )

    def findings(self, results: Results) -> Iterator[Finding]:
        for r in _strongest(results):
            said = f"{attack_label(r['attack'])}, {KINDS[r['kind']]}, succeeds for {percent(r['rate'])} of {r['n']:,} "
            said += f"({percent_range(r['rate_low'], r['rate_high'])}) on seeds it never saw"
            if r["noise_mean"] is not None:
                said += f", at a mean {NORMS[r['norm']]} noise of {mean_text(r['noise_mean'], None)}"
            said += _times(r)
            tone: Tone = "bad" if r["rate"] >= HIGH else "plain"
            yield Finding(LABELS["region"], said + ".", tone)

    def key_figures(self, results: Results) -> Iterator[KeyFigure]:
        r = next(iter(_strongest(results)), None)
        if r is None:
            return
        yield KeyFigure(
            percent(r["rate"]),
            "of attacks on the vote itself succeed",
            f"{attack_label(r['attack'])}, unseen votes",
        )
        if r["ratio"] is not None:
            detail = f"{NORMS[r['norm']]}, where both succeed"
            yield KeyFigure(f"{r['ratio']:.2f} ×", "noise that the vote costs an attacker", detail)

    def clause(self, results: Results) -> str:
        r = next(iter(_strongest(results)), None)
        if r is None:
            return ""
        said = f"is attacked itself: {attack_label(r['attack'])} succeeds for {percent(r['rate'])} of {r['n']:,} "
        return said + "on votes it never saw" + _times(r)

    def summary(self, results: Results) -> list[str]:
        records = _records(results)
        if not records:
            return []
        rows = [["", "", "success", "noise", "× network"]]
        for r in records:
            rate = f"{percent(r['rate'])} ({percent_range(r['rate_low'], r['rate_high'])})"
            rows.append(
                [
                    f"{r['attack']} ({NORMS[r['norm']]})",
                    _against(r),
                    *(rate, mean_text(r["noise_mean"], r["noise_se"]), _ratio(r)),
                ]
            )
        return [f"{SECTION} (judged by votes that they never saw)", *columns(rows)]


def needs(ctx: Context) -> Iterator[Unit]:
    """Yield what the outputs about attacks on the vote are made from."""
    yield from attack_rows.labelled_on_itself(ctx)
    for norm in NORM_NAMES:
        on_vote = vote_attack.names(ctx, norm)
        if not on_vote:
            continue
        yield from (JudgedExamples(part) for part in transfer.parts(ctx, norm))
        for attack in on_vote:
            yield from (JudgedExamples(part) for part in vote_attack.parts(ctx, attack))
        yield from vote_rows.noisy(ctx, on_vote[0])
        for own in judges(ctx):
            if own.name != vote_attack.DEFENCE:
                yield from vote_rows.beside(ctx, own, norm)


def _records(results: Results) -> list[Record]:
    found = []
    for row in results.get("vote_attacks", ()):
        low, high = row["interval"]
        found.append(
            {
                **{name: row[name] for name in ("kind", "attack", "norm", "defence", "n", "examples")},
                "rate": rounded(row["rate"]),
                "rate_low": rounded(low),
                "rate_high": rounded(high),
                **{f"seed_{i}": rounded(count / row["n"]) for i, count in enumerate(row["per_seed"])},
                **{
                    name: rounded(row[name])
                    for name in (
                        "rounded",
                        "own_seed",
                        "noise_mean",
                        "noise_se",
                        "ratio",
                        "share",
                        "share_low",
                    )
                },
                "noise_n": row["noise_n"],
                "queries": rounded(row["queries"]),
            }
        )
    names = list(dict.fromkeys(name for r in found for name in r))
    return [{name: r.get(name) for name in names} for r in found]


def _strongest(results: Results) -> list[Record]:
    """The strongest attack on the vote, alone or with what was made for the network, norm by norm, L2 first."""
    found = []
    for norm in ("L2", "Linf", "L0"):
        own = [r for r in _records(results) if r["kind"] in ("adaptive", "best") and r["norm"] == norm]
        if own:
            found.append(max(own, key=lambda r: (r["rate"], -(r["noise_mean"] or 0.0))))
    return found


def _times(r: Record) -> str:
    return (
        ""
        if r["ratio"] is None
        else f", with {r['ratio']:.2f} times the noise that the undefended network takes"
    )


def _ratio(r: Record) -> str:
    return MISSING if r["ratio"] is None else f"{r['ratio']:.2f}"


def _against(r: Record) -> str:
    if r["kind"] == "network":
        return f"{label(r['defence'])}, no region"
    return f"{label(r['defence'])}: {KINDS[r['kind']]}"


def _share(r: Record) -> str:
    return MISSING if r["share"] is None else f"{percent(r['share'])} (least {percent(r['share_low'])})"


def _texts(r: Record) -> tuple[str, ...]:
    return (
        *(f"{attack_label(r['attack'])} ({NORMS[r['norm']]})", _against(r), percent(r["rate"], r["n"])),
        *(percent_range(r["rate_low"], r["rate_high"], r["n"]), f"{r['n']:,}"),
        *(percent(r["rounded"]), percent(r["own_seed"]), mean_text(r["noise_mean"], r["noise_se"])),
        *(_ratio(r), _share(r), MISSING if r["queries"] is None else f"{r['queries']:,.0f}"),
    )


def _matrix(records: list[Record]) -> Matrix:
    rows: list[tuple[tuple[str, str], list[Cell | None]]] = []
    for r in records:
        lines = []
        if r["own_seed"] is not None:
            lines.append(Line("second", "by the votes it could see", percent(r["own_seed"])))
            lines.append(Line("second", "rounded to 8 bits", percent(r["rounded"])))
        rate = Cell(
            percent(r["rate"], r["n"]),
            percent_range(r["rate_low"], r["rate_high"], r["n"]),
            of=f"n = {r['n']:,}",
            bar=Bar(r["rate"], r["rate_low"], r["rate_high"]),
            lines=tuple(lines),
        )
        of = [Line("noise", "", f"× {_ratio(r)} network")] if r["ratio"] is not None else []
        noise = Cell(mean_text(r["noise_mean"], r["noise_se"]), lines=tuple(of))
        share = Cell("" if r["share"] is None else percent(r["share"]), lines=_least(r))
        rows.append(
            ((f"{attack_label(r['attack'])} ({NORMS[r['norm']]})", _against(r)), [rate, noise, share])
        )
    heads = [("Attack", ""), ("Success", "by unseen votes"), ("Noise", "mean"), ("Share", "of the region")]
    return Matrix(heads, rows)


def _least(r: Record) -> tuple[Line, ...]:
    return () if r["share"] is None else (Line("second", "least", percent(r["share_low"])),)


OUTPUT = VoteAttacks()
