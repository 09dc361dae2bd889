"""outcomes.csv: every adversarial example of the drawn examples with every label, for statistics of one's own."""

import csv
import io
from collections.abc import Iterable, Sequence

from rcfast.eval.outputs.attack_rows import candidates, sizes
from rcfast.eval.run.attack import Case, NetworkAttack
from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import Measured
from rcfast.eval.run.examples import examples
from rcfast.eval.run.judges import judges
from rcfast.eval.run.labels import AdversarialLabels
from rcfast.eval.run.store import write_atomic
from rcfast.eval.run.unit import Unit

NAME = "outcomes.csv"
COLUMNS = (
    *("attack", "confidence", "alpha", "network", "defence", "example", "true_label", "target"),
    *("success_on_network", "l0", "l2", "linf"),
)


def write(ctx: Context, units: Sequence[Unit]) -> None:
    """Write outcomes.csv beside results.json, or nothing where no example was attacked.

    One line for each attack, defence, example (its index in the test set) and target (empty for attacks without one):
    whether the attacked network says what the attack wants, the noise in three norms, and what the defence says of the
    adversarial example (`label_S`) and of the clean one (`clean_S`) with each vote seed S (0 where nothing is random).
    Noise and labels are those of the example that is handed out: the clean one where the attack failed.
    """
    measured = list(_measured(ctx, units))
    if not measured:
        return
    seeds = list(dict.fromkeys(seed or 0 for own, _, _ in measured for seed in own.seeds))
    buffer = io.StringIO()
    labels = [f"{kind}_{seed}" for kind in ("label", "clean") for seed in seeds]
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*COLUMNS, *labels])
    for own, case, alpha in measured:
        writer.writerows(_lines(ctx, own, case, alpha, seeds))
    write_atomic(ctx.out / NAME, buffer.getvalue())


def _measured(ctx: Context, units: Sequence[Unit]) -> Iterable[tuple[Measured, Case, float]]:
    """Yield the defences, attacks and alphas of which all drawn examples are labelled."""
    own = {judge.name: judge for judge in judges(ctx)}
    blocks: dict[tuple[str, Case, float], set[int]] = {}
    for unit in units:
        if isinstance(unit, AdversarialLabels) and isinstance(unit.made, NetworkAttack):
            blocks.setdefault((unit.judge, unit.made.case, unit.alpha), set()).add(unit.made.start)
    every = (
        {start for start, _ in examples(ctx).blocks("drawn", ctx.config.protocol.block)} if blocks else set()
    )
    for (name, case, alpha), found in blocks.items():
        if every <= found:
            yield own[name], case, alpha


def _lines(
    ctx: Context, own: Measured, case: Case, alpha: float, seeds: Sequence[int]
) -> Iterable[list[object]]:
    found, noise = candidates(ctx, own, case, alpha), sizes(ctx, case, alpha)
    drawn, judging = examples(ctx), [seed or 0 for seed in own.seeds]
    head = [case.attack, case.confidence, alpha, case.network, own.name]
    for i in range(drawn.drawn):
        clean = dict(zip(judging, found.clean[:, i].tolist(), strict=True))
        for j in range(found.success.shape[1]):
            said = dict(zip(judging, found.said[:, i, j].tolist(), strict=True))
            yield [
                *(*head, int(drawn.index[i]), int(drawn.y[i])),
                int(found.targets[i, j]) if case.targeted else "",
                *(int(found.success[i, j]), int(noise["L0"][i, j])),
                *(f"{noise[name][i, j]:.9g}" for name in ("L2", "Linf")),
                *(said.get(seed, "") for seed in seeds),
                *(clean.get(seed, "") for seed in seeds),
            ]
