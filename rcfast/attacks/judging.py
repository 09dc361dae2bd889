"""Whether adversarial examples break a vote: judged on votes that the attack has never seen."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from rcfast.attacks._sampled import example_ids, key
from rcfast.attacks.inputs import check_label_range
from rcfast.attacks.result import AttackResult
from rcfast.classifier import RegionClassifier, another
from rcfast.hardware import divisor, full_float32
from rcfast.regions import check_int

__all__ = ["Judgement", "judge"]


@dataclass(frozen=True, eq=False)
class Judgement:
    """What S fresh votes say of N adversarial examples.

    success [S,N] bool: by the label of all m votes, for the float32 bytes as they are stored; rounded [S,N] bool:
    after rounding to 8 bits, as an image file keeps them, None if not asked for; own [N] bool: by the vote that was
    attacked, under its own seed and ids; share [N] float32: of the points of all fresh votes, those that say the
    target (untargeted: the most frequent label but the true one); rival [N] float32: those that say the most frequent
    other label (untargeted: the true one).
    """

    success: Tensor
    rounded: Tensor | None
    own: Tensor
    share: Tensor
    rival: Tensor

    def __len__(self) -> int:
        return len(self.own)

    @property
    def everywhere(self) -> Tensor:
        """[N] bool: a success on every fresh seed."""
        return self.success.all(0)

    @property
    def rates(self) -> list[float]:
        """The success rate on each fresh seed."""
        return [float(rate) for rate in self.success.double().mean(1)]

    def __repr__(self) -> str:
        fresh = ", ".join(f"{rate:.1%}" for rate in self.rates)
        own = float(self.own.double().mean()) if len(self) else float("nan")
        return f"Judgement(n={len(self)}, success on fresh seeds {fresh}, on the attacker's own {own:.1%})"


@full_float32()  # as they were found
def judge(
    vote: RegionClassifier,
    result: AttackResult,
    labels: Tensor,
    *,
    targeted: bool,
    seeds: int | tuple[int, ...] = 3,
    m: int = 1000,
    rounded: bool = True,
) -> Judgement:
    """Whether the examples of a result break the vote, by fresh seeds and fresh example ids.

    result: of any attack, on the vote or carried over from its network; its adversarial examples [N,...] are taken as
    float32, clipped to [0,1]. labels [N] int64: targets, or true labels. Failed examples are the clean input, and are
    judged like the others. seeds: how many fresh seeds (at least one), or which. The points of the judges depend on
    the seed, the clean example and its label, never on the adversarial example, so that nothing could be searched for
    a friendly judge. m: votes of each, all of them decide (`stop="exact"`): a sequential vote has an error that many
    tries can spend.

    Raises TypeError or ValueError for labels of another length, dtype or range, no seeds, or m < 1.
    """
    if labels.dtype != torch.int64 or labels.shape != result.success.shape:
        kind = f"{labels.dtype} {tuple(labels.shape)}"
        raise ValueError(f"labels must be int64 of shape {tuple(result.success.shape)}, got {kind}")
    names = tuple(range(check_int("seeds", seeds, 1, 2**16))) if not isinstance(seeds, tuple) else seeds
    if not names:
        raise ValueError("seeds must name at least one seed")
    check_int("m", m, 1, 2**31 - 1)
    stored = result.adversarial.to(torch.float32).clamp(0, 1)
    own = vote.predict(stored)
    ids = example_ids(result.clean.to(torch.float32), labels)
    success, eight, counts = [], [], None
    for seed in names:
        judging = another(vote, seed=key(seed, "judge"), stop="exact")
        fresh = ids ^ _word(seed)
        votes = judging.vote(stored, example_ids=fresh, m=m)
        success.append((votes.label == labels) == targeted)
        counts = votes.counts if counts is None else counts + votes.counts
        if rounded:
            coarse = (stored * 255).round() / divisor(stored, 255)
            said = judging.vote(coarse, example_ids=fresh, m=m).label
            eight.append((said == labels) == targeted)
    assert counts is not None
    if len(labels):
        check_label_range(labels, counts.shape[1])
    share, rival = _shares(counts, labels, targeted=targeted)
    return Judgement(
        success=torch.stack(success),
        rounded=torch.stack(eight) if rounded else None,
        own=(own == labels) == targeted,
        share=share,
        rival=rival,
    )


def _word(seed: int) -> int:
    digest = hashlib.blake2b(f"{seed} ids".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _shares(counts: Tensor, labels: Tensor, *, targeted: bool) -> tuple[Tensor, Tensor]:
    """The shares [N] of the label that the attack wants and of the strongest other one, of counts [N,L]."""
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)  # weights may all be 0
    named = shares.gather(1, labels[:, None])[:, 0]
    others = shares.scatter(1, labels[:, None], -1).amax(1)
    return (named, others) if targeted else (others, named)
