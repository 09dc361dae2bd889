"""The attacks by the paper's names, each as one expression (PAPER section 3)."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from rcfast.attacks.base import Attack
from rcfast.attacks.combinators import Adapted, Smallest, Untargeted

BUDGETS = ("paper", "fast")
CONFIDENCES = tuple(range(0, 41, 5))  # of the combined L2 attacks and the high-confidence figures

Make = Callable[[str], Attack]  # an attack with the wished budget and hyperparameters, from its class's name
INF = float("inf")


def _confident(make: Make) -> list[Attack]:
    return [make("CWL2").replace(confidence=float(k)) for k in CONFIDENCES]


ATTACKS: Mapping[str, Callable[[Make], Attack]] = MappingProxyType(
    {
        "T-FGSM": lambda make: make("FGSM"),
        "T-IGSM": lambda make: make("IGSM"),
        "T-JSMA": lambda make: make("JSMA"),
        "T-CW-L0": lambda make: make("CWL0"),
        "T-CW-L2": lambda make: make("CWL2"),
        "T-CW-Linf": lambda make: make("CWLinf"),
        "U-FGSM": lambda make: Untargeted(make("FGSM")),
        "U-IGSM": lambda make: Untargeted(make("IGSM")),
        "U-JSMA": lambda make: Untargeted(make("JSMA")),
        "U-CW-L0": lambda make: Untargeted(make("CWL0")),
        "U-CW-L2": lambda make: Untargeted(make("CWL2")),
        "U-CW-Linf": lambda make: Untargeted(make("CWLinf")),
        "DeepFool": lambda make: make("DeepFool"),
        "T-CA-L0": lambda make: Smallest([make("JSMA"), make("CWL0")], norm=0),
        "T-CA-Linf": lambda make: Smallest([make("FGSM"), make("IGSM"), make("CWLinf")], norm=INF),
        "T-CA-L2": lambda make: Smallest(_confident(make), norm=2),
        "U-CA-L0": lambda make: Smallest([Untargeted(make("JSMA")), Untargeted(make("CWL0"))], norm=0),
        "U-CA-Linf": lambda make: Smallest(
            [Untargeted(make("FGSM")), Untargeted(make("IGSM")), Untargeted(make("CWLinf"))], norm=INF
        ),
        "U-CA-L2": lambda make: Smallest([*map(Untargeted, _confident(make)), make("DeepFool")], norm=2),
        "T-CW-L0-A": lambda make: make("CWL0"),
        "T-CW-L2-A": lambda make: make("CWL2"),
        "T-CW-Linf-A": lambda make: make("CWLinf"),
    }
)


ON_VOTES: Mapping[str, Callable[[Make], Attack]] = MappingProxyType(  # made for votes; they take networks too
    {
        "T-RegionCW": lambda make: make("RegionCW"),
        "T-RegionCW-L0": lambda make: make("RegionCW").replace(norm=0),
        "T-RegionCW-Linf": lambda make: make("RegionCW").replace(norm=INF),
        "T-OptMargin": lambda make: make("OptMargin").replace(targeted=True),
        "OptMargin": lambda make: make("OptMargin"),
        "T-APGD-L2": lambda make: make("APGD").replace(norm=2, targeted=True),
        "T-APGD-Linf": lambda make: make("APGD").replace(norm=INF, targeted=True),
        "APGD-L2": lambda make: make("APGD").replace(norm=2),
        "APGD-Linf": lambda make: make("APGD").replace(norm=INF),
    }
)


def _narrowed(attack: Attack, targets: int) -> Attack:
    """The attack with every untargeted part on so many classes."""
    if isinstance(attack, Smallest):
        return Smallest([_narrowed(part, targets) for part in attack.attacks], norm=attack.norm)
    return attack.replace(targets=targets) if isinstance(attack, Untargeted) else attack


def _parts(attack: Attack) -> list[Attack]:
    """An attack and those that it is made of."""
    if isinstance(attack, Smallest):
        return [inner for part in attack.attacks for inner in _parts(part)]
    return [attack, *_parts(attack.attack)] if isinstance(attack, Untargeted) else [attack]


def get(name: str, *, budget: str = "paper", alpha: float | None = None, **overrides: Any) -> Attack:
    """The attack of a name of the paper, or one that knows votes ("T-RegionCW", in L0 and Linf "T-RegionCW-L0" and
    "T-RegionCW-Linf", "T-OptMargin", "OptMargin"; with eps= "APGD-L2", "APGD-Linf", "T-APGD-L2", "T-APGD-Linf").

    budget: "paper" takes the published hyperparameters, "fast" each attack's smaller budget for a CPU. overrides:
    hyperparameters, given to every part that has them: `get("U-CW-L2", confidence=20.0, targets=5)`. alpha: of the
    adapted attacks ("…-A"), 1 unless given.

    Raises ValueError for an unknown name or budget, or alpha with an attack that is not adapted, TypeError for a
    hyperparameter that no part has, or another value of one that makes the name: "T-CA-L2" has its own confidences.
    """
    known = {**ATTACKS, **ON_VOTES}
    if name not in known:
        raise ValueError(f"name must be one of {', '.join(known)}, got {name!r}")
    if budget not in BUDGETS:
        raise ValueError(f"budget must be 'paper' or 'fast', got {budget!r}")
    adapted = name.endswith("-A")
    if alpha is not None and not adapted:
        raise ValueError(f"alpha is for the adapted attacks ('…-A'), got alpha={alpha} for {name}")
    used: set[str] = set()

    def make(class_name: str) -> Attack:
        module = importlib.import_module(f"rcfast.attacks.{class_name.lower()}")
        kind: type[Attack] = getattr(module, class_name)
        names = {f.name for f in dataclasses.fields(kind) if f.init}
        own = {key: value for key, value in overrides.items() if key in names}
        used.update(own)
        if class_name == "APGD" and "eps" not in own:
            raise TypeError(f"{name} attacks within a ball: eps, its radius, must be given")
        return kind.fast(**own) if budget == "fast" else kind(**own)

    attack = known[name](make)
    if name.startswith("U-") and "targets" in overrides:
        attack, used = _narrowed(attack, overrides["targets"]), {*used, "targets"}
    unknown = [key for key in overrides if key not in used]
    if unknown:
        raise TypeError(f"{name} has no hyperparameter {', '.join(map(repr, unknown))}")
    for key, value in overrides.items():
        if any(getattr(part, key) != value for part in _parts(attack) if hasattr(part, key)):
            raise TypeError(f"{name} is what it is by its own {key}, which cannot be {value!r}")
    return Adapted(attack, alpha=1.0 if alpha is None else alpha) if adapted else attack
