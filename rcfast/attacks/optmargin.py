"""The L2 attack on a point and on others around it at once: made to evade region-based classification."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from rcfast.attacks._passes import logits_in_parts
from rcfast.attacks._sampled import Sampled, SampledAttack, key, uniform
from rcfast.attacks.attacked import AttackedModel
from rcfast.attacks.cwl2 import CWL2
from rcfast.attacks.inputs import check_counts, check_positive
from rcfast.attacks.margins import margin

__all__ = ["OptMargin"]

AT_ONCE = 64  # examples whose directions are drawn together


class _Around(AttackedModel):
    """A model of two labels: label 1 leads by the least margin of all points around an example if all are fooled,
    else label 0 does, by the sum of what the others miss. CW-L2 towards label 1 has the summed hinge for its f."""

    def __init__(
        self,
        network: AttackedModel,
        moves: Tensor,
        labels: Tensor,
        *,
        rows: Tensor,
        targeted: bool,
        clip: bool,
    ) -> None:
        self.__dict__.update(copy.copy(network).__dict__)
        self.inner, self.labels, self.rows = network, labels, rows
        self.moves = moves  # [n,k,...] of these rows [n]
        self.targeted, self.clip = targeted, clip
        self.num_classes, self.limit = 2, max(1, network.limit // moves.shape[1])

    def logits(self, x: Tensor, rows: Tensor) -> Tensor:
        points = x[:, None] + self.moves[rows]
        points = points.clamp(0, 1) if self.clip else points
        asked = rows.repeat_interleave(self.moves.shape[1])
        logits = logits_in_parts(self.inner, points.flatten(0, 1), self.rows[asked])
        margins = margin(logits, self.labels[asked], targeted=self.targeted).view(len(x), -1)
        missed = margins.clamp(max=0).sum(1)
        lead = torch.where(missed < 0, missed, margins.amin(1))
        return torch.stack([torch.zeros_like(lead), lead], 1)

    def progress(self, share: float) -> None:
        """Tells the bar which share is finished of the network's batch, of which these rows are a part."""
        self.inner.progress((int(self.rows[0]) + share * len(self.rows)) / len(self.queries))


@dataclass(frozen=True, kw_only=True)
class OptMargin(SampledAttack):
    """OptMargin: min ||x' - x||² + c·Σ f(x' + v), over v = 0 and `directions` orthogonal random v of one length.

    f is Carlini and Wagner's hinge, max(Z_y - max_{i≠y} Z_i, 0); the search is that of :class:`CWL2` with all
    points around an example in the place of one, and ends where all of them are fooled. The directions are drawn once
    for each example, by the attack's own addressed randomness; `rms` is the root mean square of a direction's
    coordinates, so that it is rms·√n long. `clip` keeps the moved points in [0,1]; the original does not. scaled:
    as in CWL2, f in units of its own slope, so that the scale of the logits does not matter. As published it is
    OptMargin(scaled=False, c0=0.2). targeted: labels are targets, and the hinge is turned round.

    Called with a :class:`rcfast.RegionClassifier` it attacks the network, and the vote judges; the region has no part
    in the search.

    Source: He, Li and Song, "Decision boundary analysis of adversarial examples" (ICLR 2018), section 2.3;
    directions, searches, iterations and rate as in the authors' code for MNIST (for CIFAR-10 rms is 8/255), and its
    c0 of 0.2 with logits as they are. That code divides the squared distance by 255² on MNIST too, which amounts to a
    c0 of 13,000; ours has the formula of the paper.

    Raises ValueError for counts, rms or rates that are not positive.
    """

    norm: ClassVar[float] = 2

    directions: int = 19
    rms: float = 0.3
    iterations: int = 1000
    searches: int = 4
    c0: float = 2.0
    rate: float = 1e-2
    clip: bool = False
    scaled: bool = True
    targeted: bool = False  # type: ignore[misc]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(directions=self.directions, iterations=self.iterations, searches=self.searches)
        check_positive(rms=self.rms, c0=self.c0, rate=self.rate)

    @classmethod
    def fast(cls, **changes: Any) -> Self:
        """A smaller budget for a CPU: searches of at most 100 iterations with larger steps."""
        return cls(**{"iterations": 100, "rate": 5e-2, **changes})

    def _search(self, vote: Sampled, x: Tensor, labels: Tensor) -> Tensor:
        search = CWL2(
            iterations=self.iterations,
            searches=self.searches,
            c0=self.c0
            * (self.directions + 1 if self.scaled else 1),  # a unit is of the sum of so many slopes
            rate=self.rate,
            precision="float32",
            scaled=self.scaled,
        )
        # As many examples at once as fill a pass with their points: their directions take memory.
        found, rows = [], torch.arange(len(x), device=x.device)
        for some in rows.split(max(1, vote.network.limit // (self.directions + 1))):
            moves = x.new_zeros(len(some), self.directions + 1, *x.shape[1:])
            seed = key(self.seed, "directions")
            moves[:, :-1] = orthogonal(x[some], vote.ids[some], self.directions, seed=seed)
            moves *= self.rms * math.sqrt(x[0].numel())
            options = {"targeted": self.targeted, "clip": self.clip}
            around = _Around(vote.network, moves, labels[some], rows=some, **options)
            found.append(search._run(around, x[some], torch.ones_like(some)))
        return torch.cat(found)


def orthogonal(x: Tensor, ids: Tensor, count: int, *, seed: int) -> Tensor:
    """Orthogonal random directions of length 1, [n,count,...] like x [n,...], each example's by its id.

    Raises ValueError where there are fewer coordinates than directions.
    """
    if count > x[0].numel():
        raise ValueError(
            f"directions must be at most the {x[0].numel()} coordinates of an example, got {count}"
        )
    made = x.new_empty(len(x), count, *x.shape[1:])
    for rows in torch.arange(len(x), device=x.device).split(AT_ONCE):  # in float64, several times over
        noise = torch.stack(
            [uniform(x[rows], ids[rows], seed=seed, index=i).double() for i in range(count)], 1
        )
        normal = torch.erfinv(2 * noise - 1).flatten(2)
        made[rows] = torch.linalg.qr(normal.mT).Q.mT.to(x.dtype).unflatten(2, x.shape[1:])
    return made
