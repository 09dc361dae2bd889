"""How long work takes: a guess from the speed of the network here and from what this folder has seen."""

import copy
import json
import time
from dataclasses import dataclass, field

import torch
from torch import nn

from rcfast import attacks
from rcfast.eval.run.attack import Case, make, settings
from rcfast.eval.run.context import Context
from rcfast.eval.run.store import Store, digest

# Passes forward and backward, in the precision of training, that take the time of one adversarial example, as
# measured on MNIST in batches of 90.
PASSES = {
    "paper": {
        **{"T-JSMA": 200, "T-CW-L0": 5500, "T-FGSM": 120, "T-IGSM": 1500, "T-CW-Linf": 4600},
        **{"T-CW-L2": 2100, "DeepFool": 150},
    },
    "fast": {
        **{"T-JSMA": 200, "T-CW-L0": 1000, "T-FGSM": 80, "T-IGSM": 300, "T-CW-Linf": 700},
        **{"T-CW-L2": 270, "DeepFool": 150},
    },
}
SAMPLES = {
    "sequential": (14, 100),
    "exact": (510, 650),
    "none": (1000, 1000),
}  # benign, adversarial; m = 1,000


@dataclass(frozen=True)
class Pace:
    """Seconds per example of a forward pass and, in the precision of training, of a forward and backward pass.

    known: seconds per adversarial example of the attacks that this folder has seen, by their settings.
    """

    forward: float
    training: float
    known: dict[str, float] = field(default_factory=dict)
    likely_r: float = 0.3  # where Algorithm 1 may end

    def attack(self, ctx: Context, case: Case) -> float:
        """Return seconds per adversarial example: what the attack took before, or its usual number of passes.

        Most examples leave before the budget's end, so a smaller budget saves less than its share.
        """
        budget = ctx.config.attacks.budget
        made, usual = make(ctx.config, case, ctx.device), attacks.get(case.attack, budget=budget)
        share = iterations(made) / iterations(usual)
        passes = PASSES[budget][case.attack] * share**0.5
        return self.known.get(digest([case.attack, settings(made)]), passes * self.training)

    def label(self, ctx: Context, *, votes: bool, adversarial: bool) -> float:
        """Return seconds per label, by a network or by votes."""
        samples = SAMPLES[ctx.config.vote.stop][adversarial] * ctx.config.vote.m / 1000
        return self.forward * (samples if votes else 1)

    def lengths(self, ctx: Context, radii: float) -> float:
        """Return seconds of a search for r that tries this many radii."""
        own = ctx.config.length
        samples = max(SAMPLES[own.stop][0] * own.m / 1000, SAMPLES["sequential"][0])
        return radii * len(ctx.dataset.validation) * samples * self.forward


def pass_seconds(model: nn.Module, ctx: Context, dtype: torch.dtype) -> tuple[float, float]:
    """Return seconds per example of a forward pass, and of a forward and backward pass, measured in `dtype`."""
    x = ctx.dataset.train.x[:128].to(ctx.device)
    model = copy.deepcopy(model).to(ctx.device).eval()
    if x.dim() == 4:
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)

    def run(grad: bool) -> float:
        start = time.perf_counter()
        reduced = torch.autocast(x.device.type, dtype=dtype, enabled=dtype != torch.float32)
        with torch.set_grad_enabled(grad), reduced:
            logits = model(x.clone().requires_grad_(grad))
        if grad:
            logits.sum().backward()
        logits.sum().item()
        return (time.perf_counter() - start) / len(x)

    run(True)
    return min(run(False) for _ in range(3)), min(run(True) for _ in range(3))


def remembered(store: Store) -> dict[str, float]:
    """Return seconds per adversarial example of the attacks that this folder has seen, by their settings."""
    spent: dict[str, list[float]] = {}
    for path in sorted((store.root / "store" / "attack").glob("*.json")):
        try:
            said = json.loads(path.read_text())
            key = digest([said["inputs"]["attack"], said["inputs"]["settings"]])
            total = spent.setdefault(key, [0.0, 0.0])
            total[0] += said["seconds"]
            total[1] += said["info"]["count"]
        except (OSError, ValueError, KeyError):
            continue
    return {key: seconds / count for key, (seconds, count) in spent.items() if count}


def iterations(made: attacks.Attack) -> int:
    """Return the iterations that the attack may take, or 1 where it counts none."""
    return getattr(made, "iterations", 1) * getattr(made, "searches", 1)
