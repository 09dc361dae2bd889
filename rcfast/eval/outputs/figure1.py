"""Figure 1: adversarial examples on the undefended network."""

from rcfast.eval.outputs.image_grids import ImageGrid
from rcfast.eval.run.attack import Case
from rcfast.eval.run.context import Context


class Figure1(ImageGrid):
    name, judge = "figure1", "point"
    title = "Adversarial examples on the point-based classifier"
    reading = (
        "Rows are true labels, columns the labels that the network answers; the benign images on the "
        "diagonal are framed. Compare along a row: how little has to change? A cross means that no example "
        "succeeded."
    )

    def case(self, ctx: Context) -> tuple[Case, float, float | None]:
        return Case("point", "T-CW-L2"), 0.0, None


OUTPUT = Figure1()
