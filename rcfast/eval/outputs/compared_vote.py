"""What results.json holds of each vote that is compared with others."""

from typing import TypedDict

from rcfast.eval.results import AttackRow


class ComparedVote(TypedDict):
    """A vote over some region with some weights, beside others.

    half_width: of the cube with as much root mean square noise; half_widths and validation: the search for it, the
    accuracies on validation_n examples, where the network has point_accuracy. correct of n test examples; samples: mean
    points of these. attacks: rows of reading "unseen". against_first: by attack, the rate less the first vote's on the
    same examples, with its interval and p. noise_by_first: of the attack on this vote, the ratio of its noise to that
    of the attack on the first vote where both succeed, its interval's ends low and high (None of a single example), and
    of how many examples, n; None of the first vote and where no example is left.
    """

    spec: str
    region: str
    weights: str
    half_width: float
    half_widths: list[float]
    validation: list[float]
    point_accuracy: float
    validation_n: int
    correct: int
    n: int
    samples: float
    attacks: list[AttackRow]
    against_first: dict[str, dict[str, float]]
    noise_by_first: dict[str, float | None] | None
