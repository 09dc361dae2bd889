"""The best of all that was made for the network, against the vote: what an attacker picks for an example and target."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rcfast.attacks import Noise
from rcfast.eval.outputs import attack_rows
from rcfast.eval.run import attack, vote_attack
from rcfast.eval.run.attack import Adversarial, Case, NetworkAttack, adapted, norm_of
from rcfast.eval.run.context import Context
from rcfast.eval.run.examples import examples
from rcfast.eval.run.judges import judge
from rcfast.eval.run.labels import AdversarialLabels
from rcfast.eval.run.protocol import NORMS
from rcfast.eval.run.store import digest_arrays
from rcfast.eval.run.unit import Made, Unit
from rcfast.eval.run.versions import JUDGED


@dataclass(frozen=True)
class BestTransfer(Adversarial):
    """Of all targeted examples made for the network, in one norm, the least noisy that the vote of the first seed takes
    for the target; where it takes none, the least noisy that the network does."""

    case: Case
    start: int
    stop: int

    kind, stage = "transfer", "vote"

    def __str__(self) -> str:
        return f"the best {self.case.attack} against the vote"

    def needs(self, ctx: Context) -> Iterable[Unit]:
        return self._labels(ctx)

    def _labels(self, ctx: Context) -> Iterator[AdversarialLabels]:
        seed = ctx.config.vote.seeds[0]
        for case, alpha in tried(ctx, self.norm):
            made = NetworkAttack(case, self.start, self.stop)
            yield AdversarialLabels(vote_attack.DEFENCE, seed, made, alpha)

    def inputs(self, ctx: Context) -> dict[str, Any]:
        return {
            "version": JUDGED,
            "of": [
                [ctx.part(said.made).digest, ctx.part(said).digest, said.alpha] for said in self._labels(ctx)
            ],
            "vote": judge(ctx, vote_attack.DEFENCE).identity,
            "examples": attack.digest_examples(examples(ctx), self.rows),
        }

    def compute(self, ctx: Context) -> Made:
        clean = examples(ctx).x[self.rows].cpu()[:, None]
        targets = examples(ctx).targets[self.rows]
        best = clean.expand(-1, targets.shape[1], *clean.shape[2:]).clone()
        rank = np.full(
            (2, *targets.shape), np.inf
        )  # the noise of what is held, by the vote and by the network
        for said in self._labels(ctx):
            arrays = ctx.arrays(said.made)
            made = adapted(clean, torch.from_numpy(arrays["adversarial"]), said.alpha)
            size = Noise.between(made.flatten(0, 1), clean.expand_as(made).flatten(0, 1)).of(self.norm)
            noise = np.where(arrays["success"], size.numpy().reshape(targets.shape), np.inf)
            voted = np.where(ctx.arrays(said)["said"].reshape(targets.shape) == targets, noise, np.inf)
            better = (voted < rank[0]) | (np.isinf(rank[0]) & (noise < rank[1]))
            rank = np.where(better, np.stack([voted, noise]), rank)
            take = torch.from_numpy(better)
            best = torch.where(take.view(*take.shape, *[1] * (best.dim() - 2)), made, best)
        found = {"success": np.isfinite(rank[0]), "adversarial": best.numpy()}
        return Made(found, {"count": int(found["success"].size)}, digest_arrays(found))


def tried(ctx: Context, norm: float) -> list[tuple[Case, float]]:
    """Return the targeted attacks on the network in one norm, and by which share alpha their noise is lengthened."""
    cases = attack_rows.plain(ctx, "point", with_deepfool=False) + attack_rows.confident(ctx, "point")
    found = [(case, 0.0) for case in cases if norm_of(case.attack) == norm]
    alphas = sorted(set(ctx.config.attacks.alphas) - {0.0})
    found += [
        (case, alpha)
        for case in attack_rows.adapted_cases(ctx)
        if norm_of(case.attack) == norm
        for alpha in alphas
    ]
    return list(dict.fromkeys(found))


def parts(ctx: Context, norm: float) -> tuple[BestTransfer, ...]:
    """Return the best of what was made for the network in one norm, block by block; nothing where nothing was."""
    if not tried(ctx, norm):
        return ()
    case = Case("point", f"T-CA-{NORMS[norm]}")
    return tuple(BestTransfer(case, *rows) for rows in attack.blocks(ctx, "drawn"))
