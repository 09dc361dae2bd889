"""The region-based classifier: a majority vote over random points around each input (paper, section 5)."""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from . import ops, regions, rounds
from . import weights as weighted
from .engine import Engine, Runner
from .hardware import DtypeChoice, too_coarse, warn_if_coarse
from .regions import Region, as_region, check_int, check_number
from .running import Model, evaluating, tensors
from .sharing import Group, Sharing
from .stopping import StoppingRule, check_stop
from .weights import Weights, check_weights

if TYPE_CHECKING:
    from .certificates import Certificates
    from .certificates.radii import Norm

MAX_SAMPLES = 2**31 - 1


@dataclass(frozen=True)
class Votes:
    """The outcome of a vote on B examples over L labels."""

    counts: (
        Tensor  # [B, L] int32, votes per label, a row sums to samples; sums of weights: float64, at most that
    )
    label: Tensor  # [B] int64, the label of the most votes, the lowest of those that tie
    samples: Tensor  # [B] int64, points drawn
    decided: Tensor  # [B] bool, False where m ran out before the sequential test had accepted the label

    def __len__(self) -> int:
        return len(self.label)

    @property
    def share(self) -> Tensor:
        """[B] float32, the share of the votes that the label got, or the mean of its weights.

        Of a vote that stopped early it is no estimate of the label's share of the region: the vote stopped because it
        was high (0.80 reads 0.83). :meth:`RegionClassifier.certify` bounds that share.
        """
        return self.counts.gather(1, self.label[:, None])[:, 0].float() / self.samples


class RegionClassifier(nn.Module):
    """Classifies by the most frequent label among random points of the region around an input.

    ``model``: a module or callable that maps points [N, ...] in [0,1] to logits [N, L]. It is run in evaluation
    mode without gradients, left in the mode it was found in, and never changed. Its device is the classifier's.

    ``region``: a :class:`rcfast.regions.Region`, such as ``rcfast.Cube(0.3)``; a number, or a tensor [B] with one
    per example of every batch, is the length r (half-width) of the hypercube ``Cube(r, clip=clip)``; ``r=`` is the
    same by name.
    ``m``: points per example, 1 to 2^31 - 1 (paper: 1,000).
    ``clip``: of that hypercube, and of no other region: ``"intersect"`` draws uniformly from the part of the cube
    inside [0,1]^n, as the paper does; ``"clamp"`` draws from the cube and clamps, as other implementations do.
    ``stop``: ``"sequential"`` stops an example when the label of its region's largest share is known with
    error at most ``alpha``; ``"exact"`` when the remaining votes cannot change the label, which is therefore
    always the label of all m votes; None draws all m. See :mod:`rcfast.stopping`.
    ``weights``: what a point gives its labels, the label of the greatest sum wins. ``"count"`` (the paper): one
    vote to its own; ``"softmax"``: to each label its probability; ``"margin"``: to its own the difference between
    the two greatest probabilities; ``"distance"``: to its own 1 - d/reach, d the L2 distance from the example, the
    reach the region's (:meth:`rcfast.regions.Region.reach`); or a function of logits [b, s, L] (of a float64 model
    less the largest of each point), points [b, s, ...] and examples [b, ...] to weights >= 0 [b, s, L], of which a
    point gives at most 1 in all. Every rule in ``stop`` holds for them, with the mean weight in place of the share
    of the region.
    ``seed``: of the points, 0 to 2^64 - 1. Each point is a function of seed, example id and sample index
    alone. None draws a secret 64-bit key, which also keys the hash of the content: nobody without it can tell which
    points an input will get, so that no input can be chosen for its points (docs/voting.md). The key is no part
    of the state_dict or the repr; copies and pickles keep it, and with it the votes.
    ``num_classes``: L, checked if given.
    ``chunk``: points per forward pass; by default found by timing (powers of two), once per input shape.
    ``dtype``: precision in which points are drawn and the network runs (float32, float16, bfloat16), on a
    converted copy or under autocast, whichever is faster; ``"auto"``: bfloat16 where the device has units for
    it and the region is large beside its grid (a hypercube from r = 1/16 on; see :meth:`Region.spread`), else float32
    (:mod:`rcfast.hardware`), which is also what a region with one size for each example gets; None: the model's own.
    ``cuda_graphs``: let passes of a size that keeps coming be replayed as CUDA graphs where the model allows it (see
    :mod:`rcfast.graphs`).
    ``group``: a torch.distributed process group, such as ``torch.distributed.group.WORLD``, whose processes share the
    points of every round; all of them make the same calls, and all get the votes that one would get alone. A model
    that needs several devices is the user's: any callable may be sharded inside. Copies and pickles have no group.

    Raises TypeError or ValueError, naming the argument and the value.
    """

    def __init__(
        self,
        model: Model,
        region: Region | float | Tensor | None = None,
        *,
        r: float | Tensor | None = None,
        m: int = 1000,
        clip: regions.Clip = "intersect",
        stop: str | None = "sequential",
        alpha: float = 1e-3,
        weights: Weights = "count",
        seed: int | None = 0,
        num_classes: int | None = None,
        chunk: int | None = None,
        dtype: DtypeChoice = None,
        cuda_graphs: bool = True,
        group: Group | None = None,
    ) -> None:
        super().__init__()
        if not callable(model):
            raise TypeError(f"model must be a module or a callable, got {type(model).__name__}")
        if dtype not in (None, "auto", *regions.POINT_DTYPES):
            raise ValueError(
                f"dtype must be torch.float32, torch.float16, torch.bfloat16, 'auto' or None, got {dtype}"
            )
        self.model = model
        if (region is None) == (r is None):
            raise TypeError("give a region or a length r, " + ("got neither" if r is None else "got both"))
        self.region = as_region(region if r is None else r, clip)  # type: ignore[arg-type]  # one of them is there
        self.m = check_int("m", m, 1, MAX_SAMPLES)
        self.stop = check_stop(stop)
        self.alpha = check_number("alpha", alpha, 0, 1, "()")
        self.weights = check_weights(weights, self.region)
        self.seed = None if seed is None else check_int("seed", seed, 0, 2**64 - 1)
        self.sharing = Sharing(group)
        self._key = self.sharing.first(int.from_bytes(os.urandom(8), "little", signed=True)).to_bytes(
            8, "little", signed=True
        )
        self.num_classes = (
            None if num_classes is None else check_int("num_classes", num_classes, 2, 2**31 - 1)
        )
        self.chunk = None if chunk is None else check_int("chunk", chunk, 1, MAX_SAMPLES)
        self.dtype = dtype
        self.cuda_graphs = cuda_graphs
        self._engine = self._new_engine(self.dtype)

    @property
    def r(self) -> float | Tensor:
        """The size of the region; for a hypercube its half-width. May be assigned."""
        return self.region.size

    @r.setter
    def r(self, size: float | Tensor) -> None:
        self.region = self.region.resized(size)

    @property
    def clip(self) -> str | None:
        """How the region keeps its points in [0, 1], None where it does not."""
        clip: str | None = getattr(self.region, "clip", None)
        return clip

    def vote(self, x: Tensor, *, example_ids: Tensor | None = None, m: int | None = None) -> Votes:
        """Votes on examples ``x`` [B, ...] float32 in [0,1] (other floating dtypes are rounded to it).

        ``example_ids`` int64 [B]: whose random numbers to use; by default a hash of each example's content,
        so that the same input gets the same votes in any batch. ``m``: at most so many points, instead of the
        classifier's.

        Raises TypeError or ValueError for bad input before any work, and ValueError when the model returns
        NaN or another shape than [N, L].
        """
        m = self.m if m is None else check_int("m", m, 1, MAX_SAMPLES)
        with self._prepared(x, example_ids) as (runner, examples):
            rule = StoppingRule(self.stop, m, runner.num_classes, self.alpha)
            if self.weights == "count":
                return Votes(*rounds.count(runner, examples, rule, self.sharing))
            rule = replace(rule, unit=ops.UNITS)
            return Votes(*weighted.count(runner, examples, rule, self.weights, self.sharing))

    def tally(self, x: Tensor, first: int, last: int, *, example_ids: Tensor | None = None) -> Tensor:
        """Votes per label of the points ``first`` to ``last`` - 1, no stopping: int32 [B, L].

        The points are those of :meth:`vote`, so that tallies of neighbouring ranges add up. Raises like it.
        """
        self._check_counts("a tally")
        check_int("first", first, 0, MAX_SAMPLES)
        check_int("last", last, first, MAX_SAMPLES)
        with self._prepared(x, example_ids) as (runner, examples):
            return rounds.tally(runner, examples, first, last, self.sharing)

    def certify(
        self,
        x: Tensor,
        *,
        n: int = 100_000,
        n0: int = 100,
        alpha: float | None = None,
        radius: float | None = None,
        gain: float | None = None,
        sides: Literal[1, 2] = 1,
        norm: "Norm | None" = None,
        example_ids: Tensor | None = None,
    ) -> "Certificates":
        """:func:`rcfast.certify` with this classifier's model, region, seed, and ``alpha`` unless another is given."""
        self._check_counts("a certificate")
        from . import certificates  # scipy takes a moment, and only certificates need it

        question = certificates.Question(
            n, n0, self.alpha if alpha is None else alpha, radius, gain, sides, norm
        )
        return certificates.answer(self, x, question, example_ids)

    def _check_counts(self, what: str) -> None:
        if self.weights != "count":
            raise ValueError(f"{what} counts labels: weights must be 'count', got {self.weights!r}")

    @contextmanager
    def _prepared(self, x: Tensor, example_ids: Tensor | None) -> Iterator[tuple[Runner, "_Examples"]]:
        """How to run the model on checked examples, inside its evaluation mode."""
        device = next((t.device for t in tensors(self.model)), None)
        x = regions.check_examples(x, device)
        ids = None if example_ids is None else regions.check_ids(example_ids, len(x))
        if ids is not None:
            regions.check_device("example_ids", ids, x.device)
        self.region.check(x.shape)
        engine = self._current_engine(self._precision(x))
        with engine.lock, evaluating(self.model):
            runner = engine.runner(x.shape[1:], x.device)
            if self.num_classes not in (None, runner.num_classes):
                wanted = f"num_classes = {self.num_classes}"
                raise ValueError(f"model must return {wanted} logits per point, got {runner.num_classes}")
            ids = self._ids(x) if ids is None else ids
            self.sharing.check_same(ids)
            yield runner, _Examples(x, self.region.to(x.device), ids, self._point_seed())

    def predict(self, x: Tensor) -> Tensor:
        """Labels [B] int64 of examples ``x`` [B, ...] float32 in [0,1]. Raises like :meth:`vote`."""
        return self.vote(x).label

    def forward(self, x: Tensor) -> Tensor:
        """Votes per label, float32 [B, L], in place of logits; without gradient. Raises like :meth:`vote`."""
        return self.vote(x).counts.to(torch.float32)

    def extra_repr(self) -> str:
        names = ("region", "m", "stop", "alpha", "weights", "seed", "num_classes", "chunk", "dtype")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def __getstate__(self) -> dict[str, Any]:
        # Measured anew where it arrives; a group of processes stays where it is.
        return {k: v for k, v in self.__dict__.items() if k not in ("_engine", "sharing")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.sharing = Sharing()
        self._engine = self._new_engine(self.dtype)

    def _ids(self, x: Tensor) -> Tensor:
        """Whose random numbers examples ``x`` [B, ...] get where the caller names none: int64 [B]."""
        return regions.content_ids(x) if self.seed is not None else regions.keyed_ids(x, self._key)

    def _point_seed(self) -> int:
        return self.seed if self.seed is not None else int.from_bytes(self._key, "little")

    def _precision(self, x: Tensor) -> DtypeChoice:
        """``dtype``, but for ``"auto"`` where bfloat16 is too coarse for the region."""
        spread = self.region.spread(x[:1].numel()) if len(x) else None
        if self.dtype == "auto":
            return torch.float32 if too_coarse(torch.bfloat16, spread) else "auto"
        if isinstance(self.dtype, torch.dtype) and isinstance(spread, float):
            warn_if_coarse(self.dtype, spread, self.region)
        return self.dtype

    def _current_engine(self, dtype: DtypeChoice) -> Engine:
        """The engine, made anew if what it was made for has been assigned anew."""
        engine = self._engine
        made_for = (engine.dtype, engine.chunk, engine.cuda_graphs)
        if engine.model is not self.model or made_for != (dtype, self.chunk, self.cuda_graphs):
            self._engine = engine = self._new_engine(dtype)
        return engine

    def _new_engine(self, dtype: DtypeChoice) -> Engine:
        return Engine(self.model, dtype, self.chunk, cuda_graphs=self.cuda_graphs, decide=self.sharing.first)


@dataclass(frozen=True)
class _Examples:
    x: Tensor  # [B, ...]
    region: Region
    ids: Tensor  # [B]
    seed: int

    def __len__(self) -> int:
        return len(self.x)

    def take(self, some: Tensor) -> "_Examples":
        x = self.x[some].to(torch.float32).contiguous()
        return _Examples(x, self.region.take(some), self.ids[some], self.seed)

    def fill(self, out: Tensor, first_sample: int) -> None:
        self.region.fill(out, self.x, seed=self.seed, example_ids=self.ids, first_sample=first_sample)


def another(classifier: RegionClassifier, **changes: Any) -> RegionClassifier:
    """The same vote with some attributes changed, sharing what was found out about the network's speed.

    In this process alone, whatever the group of the first, unless ``sharing`` is among the changes.
    """
    twin = copy.copy(classifier)
    twin._engine = classifier._current_engine(classifier._engine.dtype)
    for name, value in changes.items():
        setattr(twin, name, value)
    return twin
