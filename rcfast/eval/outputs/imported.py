"""Adversarial examples that others made (`--import`), beside our own attacks."""

from collections.abc import Iterable, Iterator

from rcfast.eval.outputs import attack_rows
from rcfast.eval.outputs.attack_table import AttackTable
from rcfast.eval.results import AttackRow
from rcfast.eval.run import labels
from rcfast.eval.run.attack import Case
from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import Measured
from rcfast.eval.run.examples import examples
from rcfast.eval.run.imported import parts, sources
from rcfast.eval.run.judges import judges
from rcfast.eval.run.labels import CleanLabels
from rcfast.eval.run.protocol import READINGS, untargeted
from rcfast.eval.run.summary import summarise
from rcfast.eval.run.unit import Unit


class Imported(AttackTable):
    name, group = "imported", "imported"
    title = "Adversarial examples made by others"
    reading = (
        "From files, for the very examples that our attacks were tried on; any wrong label counts. Hold them "
        "against Table 5. What they cost their makers is not known here."
    )

    def cases(self, ctx: Context, network: str) -> list[Case]:
        return [case for _, case in sources(ctx) if case.network == network]

    def needs(self, ctx: Context) -> Iterable[Unit]:
        for source, case in sources(ctx):
            for own in judges(ctx):
                if case.network in (own.attacked, own.name):
                    yield from (CleanLabels(own.name, seed) for seed in own.seeds)
            yield from labels.adversarial(ctx, parts(ctx, source, case))

    def rows(self, ctx: Context, own: Measured) -> Iterator[AttackRow]:
        truth = examples(ctx).y[: examples(ctx).drawn]
        for source, case in sources(ctx):
            if case.network not in (own.attacked, own.name):
                continue
            made = tuple(parts(ctx, source, case))
            found = [attack_rows.judged(ctx, own, made)]
            for reading in READINGS:
                yield summarise(
                    untargeted(found, truth, reading),
                    group=self.group,
                    attack=case.attack,
                    norm=made[0].norm,
                    defence=own.name,
                    reading=reading,
                    random=own.random,
                )


OUTPUT = Imported()
