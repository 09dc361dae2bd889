"""Figure 5: high-confidence adversarial examples that get past the vote."""

from rcfast.eval.outputs.image_grids import ImageGrid
from rcfast.eval.run.attack import Case
from rcfast.eval.run.context import Context


class Figure5(ImageGrid):
    name = "figure5"
    title = "High-confidence adversarial examples that succeed against the region-based classifier"
    reading = (
        "As Figure 1, with a confidence meant to get past the vote; a cross means that no example "
        "succeeded. Where people no longer see the true label, the attack has changed more than the answer."
    )

    def case(self, ctx: Context) -> tuple[Case, float, float | None]:
        k = ctx.config.attacks.grid_confidence
        return Case("point", "T-CW-L2", k), 0.0, k


OUTPUT = Figure5()
