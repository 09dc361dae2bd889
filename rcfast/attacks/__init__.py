"""Attacks on point-based classifiers: one object each, `attack(model, x, labels) -> AttackResult`."""

from rcfast.attacks.apgd import APGD
from rcfast.attacks.base import Attack
from rcfast.attacks.combinators import Adapted, Smallest, Untargeted
from rcfast.attacks.cwl0 import CWL0
from rcfast.attacks.cwl2 import CWL2
from rcfast.attacks.cwlinf import CWLinf
from rcfast.attacks.deepfool import DeepFool
from rcfast.attacks.external import External, external
from rcfast.attacks.fgsm import FGSM
from rcfast.attacks.igsm import IGSM
from rcfast.attacks.jsma import JSMA
from rcfast.attacks.judging import Judgement, judge
from rcfast.attacks.optmargin import OptMargin
from rcfast.attacks.regioncw import RegionCW
from rcfast.attacks.registry import ATTACKS, CONFIDENCES, get
from rcfast.attacks.result import AttackResult, Noise

__all__ = [
    "APGD",
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
    "External",
    "Judgement",
    "Noise",
    "OptMargin",
    "RegionCW",
    "Smallest",
    "Untargeted",
    "external",
    "get",
    "judge",
]
