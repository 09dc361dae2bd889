"""How a model may be run: modes, gradients, precision, memory format, private inputs, and what it returns.

The one place that finds this out, for votes, attacks, training and evaluation alike. A model is left as it was
found.
"""

from .modules import (
    Model,
    attributes_of,
    device_of,
    evaluating,
    floating_dtype,
    in_evaluation,
    in_training,
    mode,
    modules,
    tensors,
    unwrapped,
)
from .outputs import alike, labels_of, logits_of
from .plain import TRIED, UNFIT, Needs, Plain, check_initialised, eager, noise, plain, warn_of_randomness

__all__ = [
    "TRIED",
    "UNFIT",
    "Model",
    "Needs",
    "Plain",
    "alike",
    "attributes_of",
    "check_initialised",
    "device_of",
    "eager",
    "evaluating",
    "floating_dtype",
    "in_evaluation",
    "in_training",
    "labels_of",
    "logits_of",
    "mode",
    "modules",
    "noise",
    "plain",
    "tensors",
    "unwrapped",
    "warn_of_randomness",
]
