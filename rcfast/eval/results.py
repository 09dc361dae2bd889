"""The one document that passes from the measurements to the tables, figures and report.

Everything is JSON-able. `results.json` holds it without `stages`, so that the file is the same after an
interrupted run; the times go to `timings.json`. Image grids lie beside it as `grid-<figure>.npz` with
`images` [K, K, C, H, W] float32 in [0,1] (row: true label, column: target, diagonal: the benign image) and
`shown` [K, K] bool.
"""

from typing import Any, Literal, NotRequired, TypedDict

DEFENCES = ("point", "adversarial", "distillation", "region")
OUTPUTS = (
    *("table2", "table3", "table4", "table5", "table6"),
    *("figure1", "figure2", "figure4", "figure5", "figure6", "figure7", "figure8", "figure9"),
)

Group = Literal["targeted", "untargeted", "combined", "confidence", "adapted", "imported"]
Reading = Literal["unseen", "defence", "model"]


class Sizes(TypedDict):
    train: int
    validation: int
    test: int


class DatasetInfo(TypedDict):
    name: str
    shape: list[int]  # [C, H, W]
    num_classes: int
    sizes: Sizes


class PairedDifference(TypedDict):
    """Rate of a defence less that of the undefended network on the same images, with its 95% interval.

    p: of the paired test. only_here, only_undefended: in how many trials the one alone is right, or is broken.
    """

    difference: float
    interval: list[float]
    p: float
    only_here: int
    only_undefended: int


class Accuracy(TypedDict):
    """Benign test accuracy: `correct` of `n`, with the first vote seed; `per_seed`: for each, empty when not random.

    versus_undefended: None for the undefended network itself.
    """

    defence: str
    correct: int
    n: int
    per_seed: list[int]
    versus_undefended: PairedDifference | None


class Length(TypedDict):
    """The search of Algorithm 1 on `n` validation examples; `accuracy` (share) belongs to `radii`."""

    r: float
    radii: list[float]
    accuracy: list[float]
    point_accuracy: float
    n: int
    learnt: bool  # False where r was given instead of learnt


class AttackRow(TypedDict):
    """One cell of Tables 4 to 6 or one point of Figures 6 to 8.

    reading "unseen": the candidate with the least noise among those that succeed by the votes of the first seed, judged
    by the votes of the others; "defence": chosen and judged by the votes of the first seed; "model": chosen by the
    attacked network, judged by the first seed. Without random votes the first two are the same.

    success: of n adversarial examples, made from `examples` images; a mean over the judging seeds. interval: 95%, of
    success / n, resampling images; naive_interval: Wilson's, as if all n were independent. already: successes that need
    no attack. noise_mean and noise_se (over images) are over noise_n successes of noise_examples images in `norm`, None
    where there are too few; "unseen" leaves out the successes that need no attack. parameter: the confidence k or
    alpha. per_seed: success for each vote seed that judges, empty where nothing is random.

    design_effect: by how much the targets of an image, which resemble each other, multiply the variance of the rate.
    Of "unseen" alone, None otherwise: noise_median, the noise that suffices for half of the n, failures counted as
    infinite, None where half is not reached; noise_median_interval, None for an end that is infinite; seeds_share, the
    share of the rate's variance that comes from the vote's randomness, where two seeds judge; versus_undefended, where
    the same attack was made on the undefended network.
    """

    group: Group
    attack: str
    norm: Literal["L0", "L2", "Linf"]
    defence: str
    reading: Reading
    parameter: float | None
    success: float
    n: int
    examples: int
    interval: list[float]
    naive_interval: list[float]
    design_effect: float
    already: float
    noise_mean: float | None
    noise_se: float | None
    noise_n: float
    noise_examples: int
    noise_median: float | None
    noise_median_interval: list[float | None] | None
    per_seed: list[int]
    seeds_share: float | None
    versus_undefended: PairedDifference | None


class EnvelopeCurve(TypedDict):
    """The share of examples that are broken with noise of at most `at`, with its interval; known: by the votes that the
    attacker chose by."""

    at: list[float]
    rate: list[float]
    low: list[float]
    high: list[float]
    known: list[float]


class WorstCase(TypedDict):
    """What the best of all attacks achieves against a defence, on n examples; any wrong label counts.

    rate, interval: by votes that the attacker has not seen; known_rate: by those that it chose by. already: share that
    is wrong without an attack. attacks: how many were tried; on_itself: which of them were made against this defence.
    curves by norm.
    """

    defence: str
    n: int
    rate: float
    interval: list[float]
    known_rate: float
    already: float
    random: bool
    attacks: int
    on_itself: list[str]
    curves: dict[str, EnvelopeCurve]


class VoteAttackRow(TypedDict):
    """What an attack achieves against votes that it has never seen, on n examples and targets of `examples` images.

    kind: "transfer" made for the network, the best of all; "adaptive" made for the vote; "best" of both; "random" noise
    of the size of the first adaptive attack's, any wrong label counts; "network": the adaptive attack on a network
    without a region. rate, interval: over the judging seeds; per_seed: counts. rounded: of the examples rounded to
    8 bits. own_seed: by the votes that the attacker could see. noise_*: of noise_n items that most judges accept, with
    standard error over images. ratio: of the mean noise to the least found on the undefended network (kind
    "network": by the paper's attacks on the same network), where both succeed. share, share_low: of the region's points
    those that say the target, the median and the least. queries: mean. curve: at, rate, low, high; None for networks.
    """

    kind: str
    attack: str
    norm: Literal["L0", "L2", "Linf"]
    defence: str
    n: int
    examples: int
    rate: float
    interval: list[float]
    per_seed: list[int]
    rounded: float | None
    own_seed: float | None
    noise_mean: float | None
    noise_se: float | None
    noise_n: int
    ratio: float | None
    share: float | None
    share_low: float | None
    queries: float | None
    curve: dict[str, list[float]] | None


class SecurityCurve(TypedDict):
    """The share of examples that one attack breaks with noise of at most `at` in its norm."""

    defence: str
    attack: str
    norm: Literal["L0", "L2", "Linf"]
    at: list[float]
    rate: list[float]


class CertifiedCase(TypedDict):
    """What is proven with one region about n test examples.

    noisy: by a network trained with points of the region. norm: of the region's theorem, and of the average certified
    radius acr. median: of the radius in each norm. correct: how many are right, provably within the radii `at`, which
    are all at which that changes; at_table: the same at table_radii. samples: mean points an example. checked: how many
    adversarial examples of the run were held against certificates.
    """

    region: str
    spec: str
    noisy: bool
    norm: str
    n: int
    abstained: int
    acr: float
    median: dict[str, float]
    samples: float
    table_radii: list[float]
    at: list[float]
    correct: list[int]
    at_table: list[int]
    checked: int


class Optimality(TypedDict):
    """How close an attack on its own network comes to the best of all, over n examples; any wrong label counts.

    within_budget: the same after `budget` forward and backward passes of an example. forward, backward: those that it
    spent on an example in the mean, all targets together; None where they were not recorded.
    """

    network: str
    attack: str
    norm: Literal["L0", "L2", "Linf"]
    n: int
    success: int
    optimality: float | None
    within_budget: float | None
    budget: int
    forward: float | None
    backward: float | None


class TargetHistograms(TypedDict):
    """Label histograms around the adversarial example of each target; one without success has no row."""

    targets: list[int]
    counts: list[list[int]]  # [len(targets), L]


class Histograms(TypedDict):
    """Figure 2: labels of m points around one benign example and its adversarial examples."""

    true_label: int
    m: int
    r: float
    benign: list[int]  # [L]
    attacks: dict[str, TargetHistograms]


class Grid(TypedDict):
    """An image grid: what `file` (beside results.json) shows."""

    file: str
    attack: str
    parameter: float | None
    labels: list[int]  # the K labels of rows and columns
    judge: str  # the defence whose label decides what is shown
    all_tried: bool  # whether every label was tried as the target of every other one


class StageTime(TypedDict):
    name: str
    seconds: float
    reused: bool  # everything was found, nothing computed


class Results(TypedDict):
    """All that a run measured. A key is absent (or its list empty) where `--only` did not ask for it."""

    config: dict[str, Any]
    dataset: DatasetInfo
    environment: dict[str, Any]  # versions, device, processor, instruction sets, threads
    outputs: list[str]  # members of OUTPUTS that are to be drawn
    defences: list[str]  # in the order of the tables' rows
    warnings: list[str]
    accuracy: list[Accuracy]
    attacks: list[AttackRow]
    direct: NotRequired[dict[str, list[str]]]  # the attacks that were made against each defence itself
    vote_attacks: NotRequired[list[VoteAttackRow]]
    worst: NotRequired[list[WorstCase]]
    curves: NotRequired[list[SecurityCurve]]
    optimality: NotRequired[list[Optimality]]
    length: NotRequired[Length]
    histograms: NotRequired[Histograms]
    certified: NotRequired[list[CertifiedCase]]
    compared: NotRequired[list[Any]]  # ComparedVote of outputs/compared_vote.py
    grids: dict[str, Grid]  # "figure1", "figure5", "figure9"
    checks: NotRequired[list[dict[str, Any]]]  # records of rcfast.eval.checks.Check
    stages: NotRequired[list[StageTime]]  # not part of results.json
