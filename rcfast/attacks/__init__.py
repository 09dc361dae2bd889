"""Attacks on point-based classifiers: one object each, `attack(model, x, labels) -> AttackResult`."""

from rcfast.attacks.base import Attack
from rcfast.attacks.combinators import Adapted, Smallest, Untargeted
from rcfast.attacks.cwl0 import CWL0
from rcfast.attacks.cwl2 import CWL2
from rcfast.attacks.cwlinf import CWLinf
from rcfast.attacks.deepfool import DeepFool
from rcfast.attacks.fgsm import FGSM
from rcfast.attacks.igsm import IGSM
from rcfast.attacks.jsma import JSMA
from rcfast.attacks.registry import ATTACKS, CONFIDENCES, get
from rcfast.attacks.result import AttackResult, Noise

__all__ = [
    "ATTACKS",
    "CONFIDENCES",
    "CWL0",
    "CWL2",
    "FGSM",
    "IGSM",
    "JSMA",
    "Adapted",
    "Attack",
    "AttackResult",
    "CWLinf",
    "DeepFool",
    "Noise",
    "Smallest",
    "Untargeted",
    "get",
]
