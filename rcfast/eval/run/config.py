"""The configuration of a run as data, and the names that its values may have."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Self

from rcfast.eval.results import DEFENCES

PRESETS = ("quick", "certified", "cpu", "paper", "imagenet-first-look")
TRAINED = ("point", "adversarial", "distillation")
TARGETED = ("T-JSMA", "T-CW-L0", "T-FGSM", "T-IGSM", "T-CW-Linf", "T-CW-L2")
ON_VOTES = (
    *("T-RegionCW", "T-RegionCW-L0", "T-RegionCW-Linf", "T-OptMargin", "OptMargin"),
    *("T-APGD-L2", "T-APGD-Linf", "APGD-L2", "APGD-Linf"),
)
LIBRARIES = ("foolbox", "art", "torchattacks")
ADAPTABLE = ("T-CW-L0", "T-CW-L2", "T-CW-Linf")
STOPS = ("sequential", "exact", "none")
TRAINING_ATTACK = "DeepFool"  # of adversarial training, unless train.adversarial.attack names another


class ConfigError(ValueError):
    """A setting that cannot be used; the message names it and its value."""


class StageError(RuntimeError):
    """Training, an attack or a classifier that gave up on what it was given; the message says which, and why."""


@dataclass(frozen=True)
class Data:
    name: str = (
        "digits"  # digits, mnist, cifar10, an .npz file in the Keras layout, a folder of images, Parquet
    )
    root: str = ""  # folder of the data; "" = RCFAST_DATA or the user's cache
    validation: int = 0  # validation examples taken from the training set; 0 = the data set's default
    test: int = 0  # test examples that are used, drawn by the seed; 0 = all
    seed: int = 0  # of the validation split
    size: int = 0  # side of the images of a folder or of Parquet; 0 = as the network says, or as they are


@dataclass(frozen=True)
class Model:
    # "" = made for the data set; a name of rcfast.models; module:factory; FILE.safetensors; torchvision:NAME,
    # timm:NAME, hf:FOLDER
    source: str = ""
    weights: str = ""  # of such a library's network: "" = its own, none = random ones, or a file
    train: bool = False  # train also a network that is given instead of using it as it is


@dataclass(frozen=True)
class Train:
    """Keyword arguments of rcfast.training.fit, fit_adversarial and fit_distilled."""

    point: dict[str, Any] = field(default_factory=dict)
    adversarial: dict[str, Any] = field(default_factory=dict)
    distillation: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Length:
    r: float = -1.0  # the half-width of the region; negative = learnt (Algorithm 1)
    r0: float = 0.0
    step: float = 0.01
    r_max: float = 1.0
    m: int = 1000
    tolerance: float = 0.0
    stop: str = "exact"
    curve_max: float = 0.5  # the curve of Figure 4 goes on to here
    curve_step: float = 0.05  # in such steps


@dataclass(frozen=True)
class Vote:
    m: int = 1000
    stop: str = "exact"  # sequential, exact or none
    alpha: float = 1e-3
    # Of sequential votes on adversarial examples: attacks try thousands, and each try may err with this probability.
    adversarial_alpha: float = 1e-6
    clip: str = "intersect"
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])  # the first one makes the tables
    chunk: int = 1024  # samples in memory at a time; fixed, so that the network's rounding never varies
    # Precision of the votes: auto = bfloat16 where the device has units for it and the region is large beside its grid
    # (a hypercube from r = 1/16 on), else float32; "" = the model's own; bfloat16, float16, float32.
    dtype: str = "auto"
    histogram_m: int = 10000  # points of Figure 2

    def of(self, *, tried: bool) -> Self:
        """How examples are voted on: those of which an attacker may try many by votes that err less."""
        return dataclasses.replace(self, alpha=self.adversarial_alpha) if tried else self


@dataclass(frozen=True)
class Protocol:
    examples: int = 100  # correctly classified test examples to attack
    targets: int = 0  # targets per example; 0 = all
    block: int = 25  # examples per part on disk
    margin: float = 0.005  # accuracy that a defence may lose at most and still be said to keep it


@dataclass(frozen=True)
class Attacks:
    names: list[str] = field(default_factory=lambda: [*TARGETED, "DeepFool"])
    vote: list[str] = field(
        default_factory=lambda: ["T-RegionCW"]
    )  # made for votes, or LIBRARY:ATTACK, T-LIBRARY:ATTACK
    budget: str = "paper"  # paper or fast: the settings of rcfast.attacks.get
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)  # by attack, over the budget's
    confidences: list[float] = field(default_factory=lambda: [5.0 * i for i in range(9)])
    confidence_models: list[str] = field(default_factory=lambda: list(TRAINED))
    confidence_settings: dict[str, Any] = field(default_factory=dict)  # T-CW-L2 with k > 0, over its settings
    alphas: list[float] = field(default_factory=lambda: [0.25 * i for i in range(9)])
    adapted: list[str] = field(default_factory=lambda: list(ADAPTABLE))
    imports: list[str] = field(default_factory=list)  # FILE or FILE@DEFENCE: adversarial examples of others
    grid_confidence: float = 20.0  # Figure 5
    grid_alpha: float = 1.0  # Figure 9


@dataclass(frozen=True)
class Checks:
    examples: int = 10  # drawn examples on which attacks are observed and given twice the budget; 0 = none


@dataclass(frozen=True)
class Certify:
    # KIND:SIZE of what is certified: cube, clamp, gaussian, laplace, l2ball or l1ball; SIZE r = the run's length
    regions: list[str] = field(default_factory=list)
    trained: bool = True  # also networks trained with the noise of the region
    train: dict[str, Any] = field(default_factory=dict)  # over train.point
    examples: int = 100  # of the test set, drawn by the seed
    n: int = 10_000  # points of the bound, at most
    n0: int = 100  # points that choose the label
    alpha: float = 1e-3
    gain: float = (
        0.0  # end where all remaining points could not raise the radius by this share; 0 = take them all
    )
    radii: list[float] = field(default_factory=lambda: [0.05, 0.1, 0.25, 0.5, 1.0])  # of the table


@dataclass(frozen=True)
class Export:
    """Budgets of --export robustbench: the largest noise that counts in each norm."""

    linf: float = 8 / 255
    l2: float = 0.5


@dataclass(frozen=True)
class Compare:
    # KIND or KIND/WEIGHTS of votes to compare, the others with the first. KIND: cube, clamp, gaussian, laplace, l2ball,
    # sphere, l1ball or subspace; WEIGHTS: count, softmax, margin or distance.
    votes: list[str] = field(default_factory=list)
    components: int = 50  # of the training set's principal ones, for subspace
    validation: int = 0  # examples on which sizes are learnt; 0 = all
    examples: int = 1000  # of the test set, for the accuracy
    attack: dict[str, Any] = field(default_factory=dict)  # over the settings of RegionCW in attacks.budget


@dataclass(frozen=True)
class Config:
    preset: str = ""
    seed: int = 0  # of training and of the draw of examples; the votes have vote.seeds
    device: str = "auto"  # auto = cuda where there is one
    threads: int = 0  # of each process; 0 = as the folder was begun, else its share of the cores
    training_threads: int = (
        0  # of a process that trains a network; 0 = as begun, else also those left idle by it
    )
    mixed_hardware: bool = False  # processes may run on machines that round differently
    defences: list[str] = field(default_factory=lambda: list(DEFENCES))
    user_defence: str = ""  # module:factory
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    length: Length = field(default_factory=Length)
    vote: Vote = field(default_factory=Vote)
    protocol: Protocol = field(default_factory=Protocol)
    attacks: Attacks = field(default_factory=Attacks)
    certify: Certify = field(default_factory=Certify)
    compare: Compare = field(default_factory=Compare)
    checks: Checks = field(default_factory=Checks)
    export: Export = field(default_factory=Export)

    def as_dict(self) -> dict[str, Any]:
        """Return plain, JSON-able values."""
        return dataclasses.asdict(self)
