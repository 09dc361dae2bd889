"""Table 6: combined attacks."""

from collections.abc import Iterable, Iterator

from rcfast.eval.outputs import attack_rows
from rcfast.eval.outputs.attack_table import AttackTable
from rcfast.eval.outputs.output import KeyFigure
from rcfast.eval.outputs.records import attack_label, percent
from rcfast.eval.outputs.verdicts import cells, strongest
from rcfast.eval.results import AttackRow, Results
from rcfast.eval.run.attack import Case
from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import Measured
from rcfast.eval.run.unit import Unit


class Table6(AttackTable):
    name, group = "table6", "combined"
    title = "Combined attacks"
    reading = (
        "The least noisy success of several attacks: what an attacker who tries everything gets. -V: with the attacks "
        "that know the vote, on the vote itself; on a network these are attacks on it, without a region."
    )

    def cases(self, ctx: Context, network: str) -> list[Case]:
        return attack_rows.plain(ctx, network) + attack_rows.confident(ctx, network)

    def needs(self, ctx: Context) -> Iterable[Unit]:
        yield from super().needs(ctx)
        yield from attack_rows.labelled_on_itself(ctx)

    def rows(self, ctx: Context, own: Measured) -> Iterator[AttackRow]:
        return attack_rows.combined_rows(ctx, own)

    def key_figures(self, results: Results) -> Iterator[KeyFigure]:
        best = strongest(cells(results, self.group, "region").values())
        if best:
            yield KeyFigure(percent(best["rate"]), "strongest combined attack", attack_label(best["attack"]))

    def clause(self, results: Results) -> str:
        best = strongest(cells(results, ("untargeted", self.group), "region").values())
        if best is None or best["rate"] < 0.5 or results.get("worst"):
            return ""
        return f"is still broken by {attack_label(best['attack'])} at {percent(best['rate'])}"


OUTPUT = Table6()
