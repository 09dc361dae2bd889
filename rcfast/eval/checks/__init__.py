"""Checks that catch a flattering result: pure functions on recorded numbers, each with a verdict and its reason."""

from rcfast.eval.checks.check import Check, Kind, Verdict
from rcfast.eval.checks.model import Examined, examine, flags
from rcfast.eval.checks.optimisation import (
    budget,
    gradients,
    silent_success,
    stable_predictions,
    still_moving,
    unbounded,
)
from rcfast.eval.checks.outcomes import (
    attacked_itself,
    better_than_random,
    judged_by_unseen,
    random_noise,
    rises,
    transfers,
    white_beats_black,
)
from rcfast.eval.checks.trace import Passes, Recorder, Trace, observing, trace

__all__ = [
    "Check",
    "Examined",
    "Kind",
    "Passes",
    "Recorder",
    "Trace",
    "Verdict",
    "attacked_itself",
    "better_than_random",
    "budget",
    "examine",
    "flags",
    "gradients",
    "judged_by_unseen",
    "observing",
    "random_noise",
    "rises",
    "silent_success",
    "stable_predictions",
    "still_moving",
    "trace",
    "transfers",
    "unbounded",
    "white_beats_black",
]
