"""vote-outcomes.csv: every example that attacks the vote, with the verdict of each vote that no attack has seen."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from rcfast.eval.outputs.attack_rows import sizes
from rcfast.eval.outputs.vote_rows import judged
from rcfast.eval.run.attack import Adversarial
from rcfast.eval.run.context import Context
from rcfast.eval.run.examples import examples
from rcfast.eval.run.store import write_atomic
from rcfast.eval.run.unit import Unit
from rcfast.eval.run.vote_attack import JUDGES, JudgedExamples

NAME = "vote-outcomes.csv"
SEEDS = range(1, JUDGES + 1)
COLUMNS = (
    *("attack", "made_for", "example", "true_label", "target", "l0", "l2", "linf", "own", "share"),
    *(f"{kind}_{seed}" for kind in ("success", "rounded") for seed in SEEDS),
)


def write(ctx: Context, units: Iterable[Unit]) -> None:
    """Write vote-outcomes.csv beside results.json, or nothing where no example was judged.

    One line for each attack (`made_for` the vote or a network), example (its index in the test set) and target (empty
    for attacks without one): the noise in three norms; whether the vote whose seed the attacker knows says what the
    attack wants (`own`), and each of the unseen ones (`success_S`), also after rounding to 8 bits (`rounded_S`); and
    the share of the region that votes for it over the unseen ones.
    """
    found = list(_attacks(ctx, units))
    if not found:
        return
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for made in found:
        writer.writerows(_lines(ctx, made))
    write_atomic(ctx.out / NAME, buffer.getvalue())


def _attacks(ctx: Context, units: Iterable[Unit]) -> Iterator[tuple[Adversarial, ...]]:
    """Yield the attacks of which all drawn examples are judged, block by block, in the units' order."""
    blocks: dict[object, list[Adversarial]] = {}
    for unit in units:
        if isinstance(unit, JudgedExamples) and unit.made.start < examples(ctx).drawn:
            blocks.setdefault((type(unit.made), unit.made.case), []).append(unit.made)
    for made in blocks.values():
        if sum(part.stop - part.start for part in made) == examples(ctx).drawn:
            yield tuple(sorted(made, key=lambda part: part.start))


def _lines(ctx: Context, made: tuple[Adversarial, ...]) -> Iterator[Sequence[object]]:
    case, drawn, found, noise = made[0].case, examples(ctx), judged(ctx, made), sizes(ctx, made)
    for i in range(drawn.drawn):
        for j in range(found.own.shape[1]):
            yield [
                *(case.attack, case.network, int(drawn.index[i]), int(drawn.y[i])),
                int(drawn.targets[i, j]) if case.targeted else "",
                int(noise["L0"][i, j]),
                *(f"{noise[name][i, j]:.9g}" for name in ("L2", "Linf")),
                *(int(found.own[i, j]), f"{found.share[i, j]:.6g}"),
                *(int(each[s - 1, i, j]) for each in (found.success, found.rounded) for s in SEEDS),
            ]
