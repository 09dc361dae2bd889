"""The least noisy examples with which an attack on the vote succeeds."""

from collections.abc import Iterable

from rcfast.eval.outputs.image_grids import ImageGrid
from rcfast.eval.outputs.vote_attacks import SECTION
from rcfast.eval.run import vote_attack
from rcfast.eval.run.attack import Adversarial, Case
from rcfast.eval.run.context import Context


class VoteImages(ImageGrid):
    name = "vote_images"
    title = "The least noise that changes the vote"
    section = SECTION
    reading = (
        "Made for the vote, with the least noise that was found. Rows are true labels, columns targets, the diagonal "
        "the benign images; a cross means that no example succeeded."
    )

    def case(self, ctx: Context) -> tuple[Case, float, float | None]:
        found = [name for name in vote_attack.names(ctx) if name.startswith("T-")]
        return Case(vote_attack.DEFENCE, found[0] if found else "T-RegionCW"), 0.0, None

    def there(self, ctx: Context, case: Case) -> bool:
        return case.attack in vote_attack.names(ctx)

    def made(self, ctx: Context, case: Case) -> Iterable[Adversarial]:
        return vote_attack.parts(ctx, case.attack, "grid")


OUTPUT = VoteImages()
