"""outcomes.csv: every adversarial example of the drawn examples with every label, for statistics of one's own."""

import csv
import io
from collections.abc import Iterable, Sequence

from rcfast.eval.outputs.attack_rows import judged, sizes
from rcfast.eval.run.attack import Adversarial, Case
from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import Measured
from rcfast.eval.run.examples import examples
from rcfast.eval.run.judges import judges
from rcfast.eval.run.labels import AdversarialLabels, CleanLabels
from rcfast.eval.run.store import write_atomic
from rcfast.eval.run.unit import Unit

NAME = "outcomes.csv"
COLUMNS = (
    *("attack", "confidence", "alpha", "network", "defence", "example", "true_label", "target"),
    *("success_on_network", "l0", "l2", "linf"),
)


Attempt = tuple[Measured, tuple[Adversarial, ...], float]  # who judges, what made the examples, alpha


def attempts(ctx: Context, units: Iterable[Unit]) -> list[Attempt]:
    """Return the defences and attacks of which all drawn examples are labelled, attacked and clean, by every seed.

    They are in the units' order.
    """
    own, clean = {judge.name: judge for judge in judges(ctx)}, set()
    made: dict[tuple[str, Case, float], dict[Adversarial, set[int | None]]] = {}
    for unit in units:
        if isinstance(unit, CleanLabels):
            clean.add((unit.judge, unit.seed))
        if isinstance(unit, AdversarialLabels) and unit.made.start < examples(ctx).drawn:
            blocks = made.setdefault((unit.judge, unit.made.case, unit.alpha), {})
            blocks.setdefault(unit.made, set()).add(unit.seed)
    found: list[Attempt] = []
    for (name, _, alpha), blocks in made.items():
        whole = [part for part, seeds in blocks.items() if seeds >= set(own[name].seeds)]
        # An image grid asks for no more labels than it shows, none of the clean examples.
        labelled = all((name, seed) in clean for seed in own[name].seeds)
        if labelled and sum(part.stop - part.start for part in whole) == examples(ctx).drawn:
            found.append((own[name], tuple(sorted(whole, key=lambda part: part.start)), alpha))
    return found


def write(ctx: Context, units: Sequence[Unit]) -> None:
    """Write outcomes.csv beside results.json, or nothing where no example was attacked.

    One line for each attack, defence, example (its index in the test set) and target (empty for attacks without one):
    whether the attacked network says what the attack wants, the noise in three norms, and what the defence says of the
    adversarial example (`label_S`) and of the clean one (`clean_S`) with each vote seed S (0 where nothing is random).
    Noise and labels are those of the example that is handed out: the clean one where the attack failed.
    """
    found = attempts(ctx, units)
    if not found:
        return
    seeds = list(dict.fromkeys(seed or 0 for own, _, _ in found for seed in own.seeds))
    buffer = io.StringIO()
    labels = [f"{kind}_{seed}" for kind in ("label", "clean") for seed in seeds]
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*COLUMNS, *labels])
    for attempt in found:
        writer.writerows(_lines(ctx, *attempt, seeds))
    write_atomic(ctx.out / NAME, buffer.getvalue())


def _lines(
    ctx: Context, own: Measured, made: tuple[Adversarial, ...], alpha: float, seeds: Sequence[int]
) -> Iterable[list[object]]:
    found, noise, case = judged(ctx, own, made, alpha), sizes(ctx, made, alpha), made[0].case
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
