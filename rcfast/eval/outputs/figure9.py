"""Figure 9: adversarial examples adapted to the vote that get past it."""

from rcfast.eval.outputs.image_grids import ImageGrid
from rcfast.eval.run.attack import Case
from rcfast.eval.run.context import Context


class Figure9(ImageGrid):
    name, sign = "figure9", "alpha"
    title = "Adapted adversarial examples that succeed against the region-based classifier"
    reading = "As Figure 5, for the adapted attack."

    def case(self, ctx: Context) -> tuple[Case, float, float | None]:
        alpha = ctx.config.attacks.grid_alpha
        return Case("point", "T-CW-L2"), alpha, alpha


OUTPUT = Figure9()
