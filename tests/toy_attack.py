"""An attack on the vote from outside the package: random noise, shown to the vote alone."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rcfast.eval import outputs
from rcfast.eval.results import Results
from rcfast.eval.run import labels
from rcfast.eval.run.attack import Adversarial, Case, digest_examples
from rcfast.eval.run.context import Context
from rcfast.eval.run.examples import DrawnExamples, examples
from rcfast.eval.run.judges import judge, needed_by
from rcfast.eval.run.unit import Made, Unit

ON_THE_VOTE = Case("region", "U-Shake")


@dataclass(frozen=True)
class Shake(Adversarial):
    """Noise of +-size on every pixel."""

    start: int
    stop: int
    size_of_noise: float = 0.8
    case: Case = ON_THE_VOTE

    kind = stage = "attack"
    norm = float("inf")  # type: ignore[assignment]

    def __str__(self) -> str:
        return str(self.case)

    def needs(self, ctx: Context) -> Iterable[Unit]:
        yield from needed_by(ctx, "region")
        yield DrawnExamples()

    def inputs(self, ctx: Context) -> dict[str, Any]:
        return {
            "attack": "shake",
            "size": self.size_of_noise,
            "defence": judge(ctx, "region").identity,
            "examples": digest_examples(examples(ctx), self.rows),
        }

    def compute(self, ctx: Context) -> Made:
        x = examples(ctx).x[self.rows]
        signs = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).round() * 2 - 1
        made = (x + self.size_of_noise * signs.to(x)).clamp(0, 1)
        success = np.ones((len(x), 1), bool)
        return Made({"success": success, "adversarial": made[:, None].cpu().numpy()}, {"count": len(x)})


class ShakeRate(outputs.Output):
    name = "shake"
    title = "Random noise"
    reading = "Nothing to see."

    def needs(self, ctx: Context) -> Iterable[Unit]:
        blocks = examples(ctx).blocks("drawn", ctx.config.protocol.block)
        yield from (labels.CleanLabels("region", seed) for seed in ctx.config.vote.seeds)
        yield from labels.adversarial(ctx, [Shake(start, stop) for start, stop in blocks])

    def build(self, results: Results, folder: Path) -> None:
        return None


outputs.register(ShakeRate())
