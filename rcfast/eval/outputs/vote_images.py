"""The least noisy examples with which an attack on the vote succeeds, in L2."""

from collections.abc import Iterable
from typing import ClassVar

import numpy as np

from rcfast.eval.outputs.image_grids import ImageGrid
from rcfast.eval.outputs.vote_attacks import SECTION
from rcfast.eval.run import vote_attack
from rcfast.eval.run.attack import Adversarial, Case
from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import Measured
from rcfast.eval.run.vote_attack import JudgedExamples


class VoteImages(ImageGrid):
    """What the first targeted attack on the vote makes in one norm, as judged by votes that it never saw."""

    name = "vote_images"
    title = "The least L2 noise that changes the vote"
    section = SECTION
    measured_in: ClassVar[float] = 2.0  # the norm
    reading = (
        "Made for the vote, with the least noise that the attack found. Rows are true labels, columns targets, the "
        "diagonal the benign images; a cross means that no example succeeded by most of the votes that the attack "
        "never saw."
    )

    def case(self, ctx: Context) -> tuple[Case, float, float | None]:
        found = [name for name in vote_attack.names(ctx, self.measured_in) if name.startswith("T-")]
        return Case(vote_attack.DEFENCE, found[0] if found else ""), 0.0, None

    def there(self, ctx: Context, case: Case) -> bool:
        return bool(case.attack)

    def made(self, ctx: Context, case: Case) -> Iterable[Adversarial]:
        return vote_attack.parts(ctx, case.attack, "grid")

    def verdicts(self, ctx: Context, own: Measured) -> Iterable[JudgedExamples]:
        case, _, _ = self.case(ctx)
        return (JudgedExamples(part) for part in self.made(ctx, case))

    def holds(self, ctx: Context, verdict: JudgedExamples) -> np.ndarray:
        success = ctx.arrays(verdict)["success"]
        return np.asarray(2 * success.sum(0) > len(success))


OUTPUT = VoteImages()
