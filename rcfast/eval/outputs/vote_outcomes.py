"""vote-outcomes.csv: every example that attacks the vote, with the verdict of each vote that no attack has seen."""

from collections.abc import Iterable, Iterator

from rcfast.eval.outputs.attack_rows import sizes
from rcfast.eval.outputs.export import csv_text
from rcfast.eval.outputs.table import Record
from rcfast.eval.outputs.vote_rows import judged
from rcfast.eval.run.attack import Adversarial
from rcfast.eval.run.context import Context
from rcfast.eval.run.examples import examples
from rcfast.eval.run.store import write_atomic
from rcfast.eval.run.unit import Unit
from rcfast.eval.run.vote_attack import JUDGES, JudgedExamples

NAME = "vote-outcomes.csv"
SEEDS = range(1, JUDGES + 1)


def write(ctx: Context, units: Iterable[Unit]) -> None:
    """Write vote-outcomes.csv beside results.json, or nothing where no example was judged.

    One line for each attack (`made_for` the vote or a network), example (its index in the test set) and target (empty
    for attacks without one): the noise in three norms; whether the vote whose seed the attacker knows says what the
    attack wants (`own`), and each of the unseen ones (`success_S`), also after rounding to 8 bits (`rounded_S`); and
    the share of the region that votes for it over the unseen ones.
    """
    lines = [line for made in _attacks(ctx, units) for line in _lines(ctx, made)]
    if lines:
        write_atomic(ctx.out / NAME, csv_text(lines))


def _attacks(ctx: Context, units: Iterable[Unit]) -> Iterator[tuple[Adversarial, ...]]:
    """Yield the attacks of which all drawn examples are judged, block by block, in the units' order."""
    blocks: dict[object, list[Adversarial]] = {}
    for unit in units:
        if isinstance(unit, JudgedExamples) and unit.made.start < examples(ctx).drawn:
            blocks.setdefault((type(unit.made), unit.made.case), []).append(unit.made)
    for made in blocks.values():
        if sum(part.stop - part.start for part in made) == examples(ctx).drawn:
            yield tuple(sorted(made, key=lambda part: part.start))


def _lines(ctx: Context, made: tuple[Adversarial, ...]) -> Iterator[Record]:
    case, drawn, found, noise = made[0].case, examples(ctx), judged(ctx, made), sizes(ctx, made)
    verdicts = {"success": found.success, "rounded": found.rounded}
    for i in range(drawn.drawn):
        for j in range(found.own.shape[1]):
            yield {
                "attack": case.attack,
                "made_for": case.network,
                "example": int(drawn.index[i]),
                "true_label": int(drawn.y[i]),
                "target": int(drawn.targets[i, j]) if case.targeted else None,
                "l0": int(noise["L0"][i, j]),
                "l2": f"{noise['L2'][i, j]:.9g}",
                "linf": f"{noise['Linf'][i, j]:.9g}",
                "own": int(found.own[i, j]),
                "share": f"{found.share[i, j]:.6g}",
                **{f"{name}_{s}": int(of[s - 1, i, j]) for name, of in verdicts.items() for s in SEEDS},
            }
