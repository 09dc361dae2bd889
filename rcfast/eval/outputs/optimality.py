"""How good each attack is: its distance from the best of all, on its own network, and what it spends for it."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rcfast.eval.outputs.attack_rows import sizes
from rcfast.eval.outputs.curves import attack_name
from rcfast.eval.outputs.envelope import optimality
from rcfast.eval.outputs.outcomes import Attempt, attempts
from rcfast.eval.outputs.records import MISSING, NORMS, attack_label, defences, label, percent, rounded
from rcfast.eval.outputs.table import Bar, Cell, Line, Matrix, Record, Table
from rcfast.eval.outputs.worst import AllAttacks, all_labels
from rcfast.eval.results import Optimality, Results
from rcfast.eval.run.attack import Adversarial
from rcfast.eval.run.context import Context
from rcfast.eval.run.examples import examples
from rcfast.eval.run.passes import BUDGETS, least_within
from rcfast.eval.run.protocol import NORMS as NORM_NAMES

BUDGET = 2000  # forward and backward passes of an example, all its targets together: that of AttackBench


class OptimalityTable(AllAttacks):
    name = "optimality"
    title = "How close each attack comes to the best of all"
    reading = (
        "Every attack on its own network, any wrong label counts. Optimality (AttackBench) compares the areas "
        "under the curves of robust accuracy: 100% needs no more noise on any example than the best of all "
        f"attacks, 0% finds nothing. Below it what the attack had reached within {BUDGET:,} forward and "
        "backward passes of an example, as many for each of its targets (budget in the data: how many they were), and "
        "how many it spent in all. An attack far "
        "from the best is no evidence for a defence."
    )

    def measure(self, ctx: Context) -> Mapping[str, Any]:
        rows: list[Optimality] = []
        counted = [a for a in attempts(ctx, all_labels(ctx)) if a[1][0].counted and not a[2]]
        itself = [a for a in counted if a[0].name == a[1][0].case.network]
        for name in dict.fromkeys(own.name for own, _, _ in itself):
            of_own = [attempt for attempt in itself if attempt[0].name == name]
            for norm in NORMS:
                rows += _rows(ctx, of_own, norm)
        return {"optimality": rows}

    def build(self, results: Results, folder: Path) -> Table | None:
        records = [_record(row) for row in results.get("optimality", ())]
        if not records:
            return None
        header: tuple[str, ...] = ("Attack", "Defence", "Optimality", f"Within {BUDGET:,} passes", "Success")
        header += ("Forward passes", "Backward passes")
        rows = [_texts(r) for r in records]
        matrix = _matrix(results, records)
        return Table(self.name, self.title, self.reading, records, header, rows, named=2, matrix=matrix)


def _found(ctx: Context, made: tuple[Adversarial, ...], norm: str) -> np.ndarray:
    """The least noise [N] with which an attack has fooled its own network, inf where it has not."""
    success = np.concatenate([ctx.arrays(part)["success"] for part in made])
    noise: np.ndarray = np.where(success, sizes(ctx, made)[norm], np.inf).min(axis=1)
    return noise


def _budget(ctx: Context, made: tuple[Adversarial, ...]) -> tuple[int, int]:
    """The most passes that are recorded, for each target alike, within BUDGET of an example; and its targets."""
    targets = examples(ctx).targets.shape[1] if made[0].case.targeted else 1
    return max((b for b in BUDGETS if b * targets <= BUDGET), default=0), targets


def _within(ctx: Context, made: tuple[Adversarial, ...], noise: np.ndarray) -> np.ndarray | None:
    """The same in the attack's own norm within BUDGET passes of an example; noise [N] is 0 where none was needed."""
    budget, _ = _budget(ctx, made)
    parts = [least_within(ctx.arrays(part), budget) for part in made]
    there = [part for part in parts if part is not None]
    if len(there) < len(parts):
        return None
    least: np.ndarray = np.concatenate(there).min(axis=1)
    return np.where(noise == 0, 0.0, least)


def _rows(ctx: Context, of_own: list[Attempt], norm: str) -> Iterator[Optimality]:
    found = {made: _found(ctx, made, norm) for _, made, _ in of_own}
    own = {made: noise for made, noise in found.items() if NORM_NAMES[made[0].norm] == norm}
    within = {made: _within(ctx, made, noise) for made, noise in own.items()}
    # What was passed on the way counts too, even where the attack returned something worse.
    best = np.min([*found.values(), *(noise for noise in within.values() if noise is not None)], axis=0)
    for made, noise in own.items():
        case, reached = made[0].case, within[made]
        if not case.confidence:
            yield {
                "network": case.network,
                "attack": attack_name(case.attack, 0.0),
                "norm": norm,  # type: ignore[typeddict-item]
                "n": len(noise),
                "success": int(np.isfinite(noise).sum()),
                "optimality": optimality(noise, best),
                "within_budget": None if reached is None else optimality(reached, best),
                "budget": math.prod(_budget(ctx, made)),
                "forward": _passes(ctx, made, "forward"),
                "backward": _passes(ctx, made, "backward"),
            }


def _passes(ctx: Context, made: tuple[Adversarial, ...], name: str) -> float | None:
    """Passes of an example in the mean, over all its targets; None where they were not recorded."""
    counts = [ctx.arrays(part).get(name) for part in made]
    there = [part for part in counts if part is not None]
    return float(np.concatenate(there).sum(1).mean()) if len(there) == len(counts) else None


def _record(row: Optimality) -> Record:
    numbers = ("optimality", "within_budget", "forward", "backward")
    return {**row, **{name: rounded(row[name]) for name in numbers}}  # type: ignore[literal-required]


def _texts(r: Record) -> tuple[str, ...]:
    passes = (MISSING if r[name] is None else f"{r[name]:,.0f}" for name in ("forward", "backward"))
    return (
        *(f"{attack_label(r['attack'])} ({NORMS[r['norm']]})", label(r["network"])),
        *(percent(r["optimality"]), percent(r["within_budget"]), percent(r["success"] / r["n"])),
        *passes,
    )


def _matrix(results: Results, records: list[Record]) -> Matrix:
    found = {(r["attack"], r["network"]): r for r in records}
    shown = [d for d in defences(results) if any(r["network"] == d for r in records)]
    rows: list[tuple[tuple[str, str], list[Cell | None]]] = []
    for attack in dict.fromkeys(r["attack"] for r in records):
        norm = next(r["norm"] for r in records if r["attack"] == attack)
        rows.append(((attack_label(attack), NORMS[norm]), [_cell(found.get((attack, d))) for d in shown]))
    return Matrix([("Attack", ""), *((label(d), "") for d in shown)], rows)


def _cell(r: Record | None) -> Cell | None:
    if r is None or r["optimality"] is None:
        return None
    lines = [Line("second", f"within {BUDGET:,} passes", percent(r["within_budget"]))]
    if r["forward"] is not None:
        lines.append(Line("second", "forward", f"{r['forward']:,.0f}, backward {r['backward']:,.0f}"))
    value = max(0.0, r["optimality"])
    return Cell(percent(value), bar=Bar(value, value, value), lines=tuple(lines))


OUTPUT = OptimalityTable()
