"""Table 4: targeted attacks."""

from collections.abc import Iterator

from rcfast.eval.outputs import attack_rows
from rcfast.eval.outputs.attack_table import AttackTable
from rcfast.eval.outputs.output import KeyFigure
from rcfast.eval.outputs.records import attack_label, percent
from rcfast.eval.outputs.verdicts import cells, clearly_fewer, strongest
from rcfast.eval.results import AttackRow, Results
from rcfast.eval.run.attack import Case
from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import Measured


class Table4(AttackTable):
    name, group = "table4", "targeted"
    title = "Targeted attacks"
    reading = (
        "Each attack wants one given wrong label. A cell is the share of adversarial examples to which the "
        "defence answers that label: low is good for the defence."
    )

    def cases(self, ctx: Context, network: str) -> list[Case]:
        return attack_rows.plain(ctx, network, with_deepfool=False)

    def rows(self, ctx: Context, own: Measured) -> Iterator[AttackRow]:
        return attack_rows.targeted_rows(ctx, own)

    def key_figures(self, results: Results) -> Iterator[KeyFigure]:
        point, vote = cells(results, self.group, "point"), cells(results, self.group, "region")
        if "T-CW-L2" in point and "T-CW-L2" in vote:
            detail = f"{percent(point['T-CW-L2']['rate'])} undefended"
            yield KeyFigure(percent(vote["T-CW-L2"]["rate"]), "T-CW-L2 succeeds", detail)
        best = strongest(vote.values())
        if best:
            yield KeyFigure(percent(best["rate"]), "strongest targeted attack", attack_label(best["attack"]))

    def clause(self, results: Results) -> str:
        both, fewer, _ = clearly_fewer(results, self.group, "region")
        if not both:
            return ""
        stops = f"makes {len(fewer)} of {len(both)} targeted attacks succeed clearly less often"
        return stops if fewer else "stops no targeted attack measurably"


OUTPUT = Table4()
