"""How long work takes: a guess from the speed of the network here and from what this folder has seen."""

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from rcfast import attacks, training
from rcfast.data import Split
from rcfast.eval.run.attack import Case, make, settings
from rcfast.eval.run.config import Config
from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import rows_at_once
from rcfast.eval.run.store import Store, digest
from rcfast.running import evaluating, plain

REGION_CW, OPT_MARGIN = ("T-RegionCW", "T-RegionCW-L0", "T-RegionCW-Linf"), ("T-OptMargin", "OptMargin")
# Passes forward and backward that take the time of one adversarial example, as measured on MNIST in batches of 90; and
# how often as much a pass of a single row adds, once for all rows: small networks wait for what surrounds a pass.
AROUND = 3.5
PASSES = {
    "paper": {
        **{"T-JSMA": 120, "T-CW-L0": 5500, "T-FGSM": 60, "T-IGSM": 600, "T-CW-Linf": 4600},
        **{
            "T-CW-L2": 2100,
            "DeepFool": 150,
            **dict.fromkeys(REGION_CW, 450),
            **dict.fromkeys(OPT_MARGIN, 180),
        },
    },
    "fast": {
        **{"T-JSMA": 120, "T-CW-L0": 1000, "T-FGSM": 50, "T-IGSM": 150, "T-CW-Linf": 700},
        **{
            "T-CW-L2": 270,
            "DeepFool": 150,
            **dict.fromkeys(REGION_CW, 290),
            **dict.fromkeys(OPT_MARGIN, 100),
        },
    },
}
SAMPLES = {
    "sequential": (14, 100),
    "exact": (510, 650),
    "none": (1000, 1000),
}  # benign, adversarial; m = 1,000


@dataclass(frozen=True)
class Pace:
    """Seconds per example of a forward pass, of one forward and backward in the image, and of one of training.

    one: seconds of such a pass of an attack with a single row.
    known: seconds per adversarial example of the attacks that this folder has seen, by their settings.
    """

    forward: float
    backward: float
    training: float
    one: float = 0.0
    known: dict[str, float] = field(default_factory=dict)
    likely_r: float = 0.3  # where Algorithm 1 may end, see likely_r()

    def attack(self, ctx: Context, case: Case, rows: int) -> float:
        """Return seconds of an attack on so many rows: what it took before, or its usual number of passes.

        Most examples leave before the budget's end, so a smaller budget saves less than its share.
        """
        budget = ctx.config.attacks.budget
        made, usual = make(ctx.config, case, ctx.device), attacks.get(case.attack, budget=budget)
        share = iterations(made) / iterations(usual)
        passes = PASSES[budget][case.attack] * share**0.5
        known = self.known.get(digest([case.attack, settings(made)]))
        return passes * rows * self.backward + self.around(passes) if known is None else rows * known

    def around(self, steps: float) -> float:
        """Return the seconds of so many steps of an attack that do not depend on its rows."""
        return AROUND * steps * self.one

    def label(self, ctx: Context, *, votes: bool, adversarial: bool) -> float:
        """Return seconds per label, by a network or by votes."""
        samples = SAMPLES[ctx.config.vote.stop][adversarial] * ctx.config.vote.m / 1000
        return self.forward * (samples if votes else 1)

    def lengths(self, ctx: Context, radii: float, examples: int) -> float:
        """Return seconds of a search for r that tries this many radii on so many examples."""
        own = ctx.config.length
        samples = max(SAMPLES[own.stop][0] * own.m / 1000, SAMPLES["sequential"][0])
        return radii * examples * samples * self.forward


def likely_r(config: Config) -> float:
    """Return the given r, else a guess of what Algorithm 1 will learn: votes on a small region take float32."""
    own = config.length
    return own.r if own.r >= 0 else min(own.r_max, 0.6 * own.curve_max or Pace.likely_r)


TRIED = 128  # examples in a pass that is timed


def _few(ctx: Context) -> Tensor:
    coordinates = math.prod(ctx.dataset.shape)
    return ctx.dataset.train.x[: max(2, rows_at_once(coordinates, 8 * TRIED) // 8)].to(ctx.device)


def forward_seconds(call: Callable[[Tensor], Tensor], ctx: Context) -> float:
    """Return seconds per example of a pass without gradient."""
    x = _few(ctx)
    with torch.no_grad():
        return _least(lambda: call(x)) / len(x)


def backward_seconds(model: nn.Module, ctx: Context, dtype: torch.dtype, rows: int | None = None) -> float:
    """Return seconds per example of a forward and backward pass in `dtype`, as attacks make them; of so many rows."""
    x = _few(ctx)[:rows]
    function = plain(model).reformatted(x)

    def run() -> Tensor:
        leaf = x.clone().requires_grad_()
        with evaluating(model), torch.enable_grad():
            with torch.autocast(x.device.type, dtype=dtype, enabled=dtype != torch.float32):
                total = function(leaf).sum()
            torch.autograd.grad(total, leaf)
        return total.detach()

    return _least(run) / len(x)


def training_seconds(model: nn.Module, ctx: Context, recipe: training.Recipe) -> float:
    """Return seconds per example of a step of training, tried on a copy of the model."""
    x = _few(ctx)
    few, short = Split(x, ctx.dataset.train.y[: len(x)]), {**asdict(recipe), "epochs": 1}
    twin = copy.deepcopy(model)

    def run() -> Tensor:
        training.fit(twin, few, **short)
        return torch.zeros(())

    return _least(run) / len(x)


def _least(run: Callable[[], Tensor]) -> float:
    took = []
    for _ in range(4):  # the first one makes ready
        start = time.perf_counter()
        run().sum().item()  # what a GPU is given is finished by then
        took.append(time.perf_counter() - start)
    return min(took[1:])


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
