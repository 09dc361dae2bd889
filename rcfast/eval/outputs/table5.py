"""Table 5: untargeted attacks."""

from collections.abc import Iterator

from rcfast.eval.outputs import attack_rows
from rcfast.eval.outputs.attack_table import AttackTable
from rcfast.eval.outputs.output import KeyFigure
from rcfast.eval.outputs.records import percent
from rcfast.eval.outputs.verdicts import cells
from rcfast.eval.results import AttackRow, Results
from rcfast.eval.run.attack import Case
from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import Measured


class Table5(AttackTable):
    name, group = "table5", "untargeted"
    title = "Untargeted attacks"
    reading = (
        "Any wrong label counts. Of all targets the adversarial example with the least noise that succeeds "
        "against the defence is handed in, so these rates lie above those of Table 4."
    )

    def cases(self, ctx: Context, network: str) -> list[Case]:
        return attack_rows.plain(ctx, network)

    def rows(self, ctx: Context, own: Measured) -> Iterator[AttackRow]:
        return attack_rows.untargeted_rows(ctx, own)

    def key_figures(self, results: Results) -> Iterator[KeyFigure]:
        vote, point = (cells(results, self.group, d).get("U-CW-L2") for d in ("region", "point"))
        if vote and point:
            yield KeyFigure(percent(vote["rate"]), "U-CW-L2 succeeds", f"{percent(point['rate'])} undefended")


OUTPUT = Table5()
