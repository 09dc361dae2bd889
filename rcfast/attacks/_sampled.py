"""A vote as its attacks see it: points of the region, gradients through them, and votes of the attacker's own.

Every point is drawn by the vote's own kernels under an address: the attack's seed for this purpose, an id from the
clean example and its label, and a sample index that advances with the steps. An attack is therefore reproducible
bit by bit, and no example feels who else is in the batch, up to the network's own rounding.
"""

from __future__ import annotations

import copy
import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from rcfast import ops
from rcfast.attacks._passes import channels_last, logits_in_parts
from rcfast.attacks.attacked import AttackedModel
from rcfast.attacks.base import Attack
from rcfast.attacks.inputs import network_of
from rcfast.attacks.margins import margin, per_row
from rcfast.classifier import RegionClassifier, Votes, another
from rcfast.regions import Region, check_int, content_ids
from rcfast.running import plain

BISECTIONS = 22  # of a scale, to 2^-22 of it
Loss = Callable[[Tensor, Tensor], Tensor]  # logits [g,k,L] of rows [g] int64 of the batch -> [g]


def key(seed: int, purpose: str) -> int:
    """A 64-bit seed of its own for each purpose, so that an attack's points are never those of a vote."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {purpose}".encode(), digest_size=8).digest(), "little")


def example_ids(clean: Tensor, labels: Tensor) -> Tensor:
    """Ids int64 [N] of tasks: clean examples [N,...] with their labels [N]."""
    return content_ids(clean) + (labels + 1) * -0x61C8864680B583EB  # wraps: distinct labels, distinct ids


class Drawn(torch.autograd.Function):
    """Points [n,k,...] of the regions around x [n,...], differentiable in x with the random numbers held fixed."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, region: Region, samples: int, seed: int, ids: Tensor, first: int
    ) -> Tensor:
        points = x.new_empty(len(x), samples, *x.shape[1:])
        region.fill(points, x, seed=seed, example_ids=ids, first_sample=first)
        ctx.save_for_backward(x, points, ids)
        ctx.address = region, seed, first
        return points

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, points, ids = ctx.saved_tensors
        region, seed, first = ctx.address
        grad = region.vjp(x, points, grad, seed=seed, example_ids=ids, first_sample=first)
        return grad, None, None, None, None, None


def draw(x: Tensor, region: Region, samples: int, *, seed: int, ids: Tensor, first: int = 0) -> Tensor:
    """Points ``first`` and following [n,samples,...] of the regions around x [n,...] float32, with gradient in x."""
    points: Tensor = Drawn.apply(x.contiguous(), region, samples, seed, ids, first)
    return points


def uniform(like: Tensor, ids: Tensor, *, seed: int, index: int = 0) -> Tensor:
    """Numbers uniform on (0,1), float32 shaped like [n,...], each example's by its id."""
    out = torch.empty(len(like), 1, *like.shape[1:], device=like.device)
    middle = torch.full_like(out[:, 0], 0.5)
    ops.sample_hypercube_(out, middle, 0.5, seed=seed, example_ids=ids, first_sample=index)
    return out[:, 0]


def inside_ball(x: Tensor, delta: Tensor, radius: Tensor | float) -> Tensor:
    """The projection of x + delta [n,...] on [0,1] and the L2 ball of radius [n] around x.

    It is clip(x + s·delta) with the largest s up to 1 that stays in the ball: the scale is found by bisection, from
    the inside.
    """
    low, high = x.new_zeros(len(x)), x.new_ones(len(x))
    point = (x + delta).clamp(0, 1)
    fits = (point - x).flatten(1).norm(dim=1) <= radius
    for _ in range(BISECTIONS):
        scale = (low + high) / 2
        length = ((x + per_row(scale, x) * delta).clamp(0, 1) - x).flatten(1).norm(dim=1)
        low, high = torch.where(length <= radius, scale, low), torch.where(length <= radius, high, scale)
    return torch.where(per_row(fits, x), point, (x + per_row(low, x) * delta).clamp(0, 1))


class Sampled:
    """The attacked model during one attack: the vote, or a plain network, which is its own only point.

    Rows [n] int64 say which example of the batch each row of an input belongs to.
    """

    def __init__(self, model: AttackedModel, x: Tensor, labels: Tensor, *, seed: int) -> None:
        self.voter = model.model if isinstance(model.model, RegionClassifier) else None
        self.point_model = plain(network_of(model.model))
        network = model
        if self.voter is not None:
            self.region = self.voter.region.to(x.device)
            network = copy.copy(model)
            network.model = self.point_model
        self.network = channels_last(network, x if self.voter is None else x.to(torch.float32))
        self.ids = example_ids(x, labels)
        self.queries = model.queries
        self.seed = seed
        self.key = key(seed, "points")

    @property
    def votes(self) -> bool:
        return self.voter is not None

    def _groups(self, count: int, samples: int) -> Iterator[Tensor]:
        """Rows that share a forward pass: as many as fit with all their points, in passes of even size."""
        most = max(1, self.network.limit // samples)
        pieces = -(-count // most)
        yield from torch.arange(count, device=self.queries.device).tensor_split(pieces) if count else ()

    def _points(self, x: Tensor, rows: Tensor, first: int, samples: int) -> Tensor:
        if self.voter is None:
            return x[:, None]
        x = x.to(torch.float32)
        return draw(x, self.region, samples, seed=self.key, ids=self.ids[rows], first=first)

    def gradients(
        self, x: Tensor, rows: Tensor, loss: Loss, *, first: int, samples: int
    ) -> tuple[Tensor, Tensor]:
        """Logits [n,k,L] of points ``first`` to ``first + k`` around x [n,...], and the loss's gradient in x.

        k is ``samples``, 1 for a plain network.
        """
        samples = samples if self.votes else 1
        all_logits, grads = [], []
        for some in self._groups(len(x), samples):
            some = some.to(x.device)
            of_these = (
                partial(self._of_points, first=first, samples=samples) if self.votes else self._of_network
            )
            logits, grad = of_these(x[some], rows[some], lambda z, some=some: loss(z, some))  # type: ignore[misc]
            all_logits.append(logits)
            grads.append(grad)
        return torch.cat(all_logits), torch.cat(grads)

    def _of_points(
        self, x: Tensor, rows: Tensor, loss: Callable[[Tensor], Tensor], *, first: int, samples: int
    ) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            logits = self.differentiable(leaf, rows, first=first, samples=samples)
            if not logits.requires_grad:
                raise TypeError("model must be differentiable: its logits carry no gradient in x")
            (grad,) = torch.autograd.grad(loss(logits).sum(), leaf)
        return logits.detach(), self.network.finite(grad, rows)

    def _of_network(self, x: Tensor, rows: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        logits, (grad,) = self.network.gradients(x, rows, lambda z: loss(z[:, None]))
        return logits[:, None], grad

    def logits(self, x: Tensor, rows: Tensor, *, first: int, samples: int) -> Tensor:
        """Logits [n,k,L] of points ``first`` to ``first + k`` around x [n,...], without gradient."""
        samples = samples if self.votes else 1
        found = []
        for some in self._groups(len(x), samples):
            some = some.to(x.device)
            points = self._points(x[some], rows[some], first, samples).flatten(0, 1)
            found.append(self.network.predict(points, rows[some].repeat_interleave(samples)))
        return torch.cat(found).unflatten(0, (len(x), samples))

    def differentiable(self, x: Tensor, rows: Tensor, *, first: int, samples: int) -> Tensor:
        """Logits [n,k,L] of points ``first`` to ``first + k`` around x [n,...], with their graph."""
        samples = samples if self.votes else 1
        points = self._points(x, rows, first, samples).flatten(0, 1)
        logits = logits_in_parts(self.network, points, rows.repeat_interleave(samples))
        return logits.unflatten(0, (len(x), samples))

    def answers(self, x: Tensor, rows: Tensor) -> Tensor:
        """What the attacked model itself says of x [n,...]: votes per label [n,L], or logits with their graph."""
        if self.voter is None:
            return self.network.logits(x, rows)
        votes = self.voter.vote(x.detach())
        self.queries.index_add_(0, rows, votes.samples.to(rows.device))
        return votes.counts.to(torch.float32)

    def vote(self, x: Tensor, rows: Tensor, *, purpose: str, m: int, stop: str | None = None) -> Votes:
        """A vote on x [n,...] by the attacker's own points: other ones for each purpose."""
        assert self.voter is not None
        twin = another(self.voter, seed=key(self.seed, purpose), stop=stop)
        votes = twin.vote(x.to(torch.float32), example_ids=self.ids[rows], m=m)
        self.queries.index_add_(0, rows, votes.samples.to(rows.device))
        return votes

    def lead(self, votes: Votes, labels: Tensor, *, targeted: bool) -> Tensor:
        """By how much of the votes [n] the attack is ahead: the target's share less the strongest other's."""
        return margin(votes.counts / votes.samples[:, None], labels, targeted=targeted)


@dataclass(frozen=True, kw_only=True)
class SampledAttack(Attack):
    """Base of the attacks that know the vote: called with a :class:`rcfast.RegionClassifier`, or a plain network.

    ``seed`` is of the attack's own points; those of a vote with the same seed are others.
    """

    rolling: ClassVar[bool] = True

    seed: int = 0

    def __post_init__(self) -> None:
        check_int("seed", self.seed, 0, 2**64 - 1)

    @abstractmethod
    def _search(self, vote: Sampled, x: Tensor, labels: Tensor) -> Tensor:
        """Adversarial examples [n,...] for x [n,...], labels [n]."""

    def _run(self, model: AttackedModel, x: Tensor, labels: Tensor) -> Tensor:
        return self._search(Sampled(model, x, labels, seed=self.seed), x, labels)
