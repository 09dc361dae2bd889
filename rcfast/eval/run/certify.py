"""Certificates of test examples and of attacked ones, by the plain network and by networks trained with noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from rcfast import regions, training
from rcfast.certificates import Certificates
from rcfast.classifier import RegionClassifier
from rcfast.eval.run.attack import digest_examples
from rcfast.eval.run.config import Config, ConfigError
from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import Network, weights_digest
from rcfast.eval.run.examples import DrawnExamples, examples
from rcfast.eval.run.length import LearntLength, length
from rcfast.eval.run.networks import builder, from_checkpoint, made_of, needed_for, network
from rcfast.eval.run.protocol import shuffled
from rcfast.eval.run.unit import Made, Unit, explained
from rcfast.eval.run.versions import CERTIFICATE, NETWORK

if TYPE_CHECKING:
    from rcfast.eval.run.pace import Pace

KINDS: dict[str, Callable[[float], regions.Region]] = {
    "cube": lambda size: regions.Cube(size),
    "clamp": lambda size: regions.Cube(size, clip="clamp"),
    "gaussian": lambda size: regions.Gaussian(size),
    "laplace": lambda size: regions.Laplace(size),
    "l2ball": lambda size: regions.L2Ball(size),
    "l1ball": lambda size: regions.L1Ball(size),
}
BLOCK = 100  # test examples in a part


def parse(spec: str) -> tuple[str, float | None]:
    """Return the kind and the size of `kind:size`; no size where it is r, the run's own. Raises ConfigError."""
    kind, colon, size = spec.partition(":")
    try:
        found = None if size == "r" else float(size)
        if kind in KINDS and colon and (found is None or 0 < found < math.inf):
            return kind, found
    except ValueError:
        pass
    raise ConfigError(
        f"certify.regions must be KIND:SIZE with KIND of {', '.join(KINDS)} and SIZE a number above 0, or r for the "
        f"run's own length, got {spec!r}"
    )


def region(ctx: Context, spec: str) -> regions.Region:
    """Return the region of a spec. Raises Missing where r is not known yet."""
    kind, size = parse(spec)
    try:
        return KINDS[kind](length(ctx) if size is None else size)
    except ValueError as error:
        own = f" with r = {length(ctx):g}" if size is None else ""
        raise ConfigError(f"certify.regions: {spec}{own}: {error}") from error


def _needs_size(spec: str) -> Iterator[Unit]:
    if parse(spec)[1] is None:
        yield LearntLength()


@dataclass(frozen=True)
class NoisyNetwork(Unit):
    """The plain network's architecture, trained on points of a region in place of the examples."""

    spec: str

    kind = stage = "train"
    suffix = ".safetensors"

    def __str__(self) -> str:
        return f"training with {self.spec}"

    def check(self, ctx: Context) -> None:
        parse(self.spec)
        self._recipe(ctx)

    def needs(self, ctx: Context) -> Iterable[Unit]:
        return _needs_size(self.spec)

    def inputs(self, ctx: Context) -> dict[str, Any]:
        recipe, made = ctx.once(("recipe", self), lambda: self._recipe(ctx))
        return {
            "version": NETWORK,
            "network": "noisy",
            "noise": region(ctx, self.spec).identity(),
            "model": builder(ctx)[1],
            "data": ctx.dataset.train.fingerprint,
            "seed": ctx.config.seed,
            "recipe": asdict(recipe),
            **made,
        }

    def compute(self, ctx: Context) -> Made:
        inputs, checkpoint = self.inputs(ctx), self._checkpoint(ctx)
        ctx.progress.print(str(self))

        def train() -> nn.Module:
            settings: dict[str, Any] = {"seed": ctx.config.seed, "noise": region(ctx, self.spec)}
            model = builder(ctx)[0]().to(ctx.device)
            return training.fit(
                model, ctx.dataset.train, checkpoint=checkpoint, **settings, **_settings(ctx.config)
            ).model

        with explained(str(self)):
            model = from_checkpoint(ctx, train, checkpoint)
        path = ctx.store.path(self.kind, inputs, self.suffix)
        training.save_model(model, path, {key: inputs[key] for key in ("network", "noise", "seed", "recipe")})
        return Made(digest=weights_digest(model, {"inputs": inputs}))

    def tidy(self, ctx: Context) -> None:
        self._checkpoint(ctx).unlink(missing_ok=True)

    def seconds(self, ctx: Context, pace: Pace) -> float:
        return self.inputs(ctx)["recipe"]["epochs"] * len(ctx.dataset.train) * pace.training

    def network(self, ctx: Context) -> Network:
        """Return it, in evaluation mode on the run's device. Raises Missing."""
        return ctx.once(self, lambda: self._network(ctx))

    def _network(self, ctx: Context) -> Network:
        part = ctx.part(self)
        model, _ = training.load_model(part.path, model=builder(ctx)[0]())
        return Network(str(self), model.to(ctx.device).eval(), part.digest, network(ctx, "point").like)

    def _recipe(self, ctx: Context) -> tuple[training.Recipe, dict[str, str]]:
        make, described, _ = builder(ctx)
        try:
            untrained = make()
            recipe = training.recipe_for(untrained, **_settings(ctx.config)).on(ctx.device)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"certify.train: {error}") from error
        return recipe, made_of(described, untrained)

    def _checkpoint(self, ctx: Context) -> Path:
        path = ctx.store.path(self.kind, self.inputs(ctx), self.suffix)
        return path.with_name(f"{path.stem}-epochs.safetensors")


def _settings(config: Config) -> dict[str, Any]:
    return {**config.train.point, **config.certify.train}


@dataclass(frozen=True)
class CertifiedExamples(Unit):
    """Certificates of a block of examples: those drawn from the test set, or (`attacked`) those that are attacked.

    Arrays, [N] each: index, truth, label, lower, samples, and the radii L1, L2, Linf.
    """

    spec: str
    noisy: bool  # by the network trained with this noise, or by the plain one
    start: int
    stop: int
    attacked: bool = False

    kind = stage = "certify"

    def __str__(self) -> str:
        return f"{self.spec}{', trained with it' if self.noisy else ''}"

    def check(self, ctx: Context) -> None:
        parse(self.spec)

    def needs(self, ctx: Context) -> Iterable[Unit]:
        yield from needed_for(ctx, "point")
        yield from _needs_size(self.spec)
        if self.noisy:
            yield NoisyNetwork(self.spec)
        if self.attacked:
            yield DrawnExamples()

    def inputs(self, ctx: Context) -> dict[str, Any]:
        own, vote = ctx.config.certify, ctx.config.vote
        x = {"test": ctx.dataset.test.fingerprint, "rows": self._index(ctx).tolist()}
        if self.attacked:
            x = {"clean": digest_examples(examples(ctx), slice(self.start, self.stop))}
        votes = self._network(ctx).voter(vote.dtype, region(ctx, self.spec))
        return {
            "version": CERTIFICATE,
            "network": self._network(ctx).digest,
            "region": region(ctx, self.spec).identity(),
            "points": [own.n, own.n0, own.alpha, own.gain],
            "vote": [vote.chunk, votes.arithmetic(self._network(ctx).like), vote.seeds[0]],
            **x,
        }

    def compute(self, ctx: Context) -> Made:
        own, vote = ctx.config.certify, ctx.config.vote
        x, truth = self._examples(ctx)
        made = region(ctx, self.spec)
        votes = RegionClassifier(
            self._network(ctx).voter(vote.dtype, made),
            made,
            seed=vote.seeds[0],
            chunk=vote.chunk,
        )
        with explained(str(self)):
            found = votes.certify(x, n=own.n, n0=own.n0, alpha=own.alpha, gain=own.gain or None)
        return Made({"index": self._index(ctx), "truth": truth, **_arrays(found)}, {"norm": found.norm})

    def size(self, ctx: Context) -> int:
        return self.stop - self.start

    def seconds(self, ctx: Context, pace: Pace) -> float:
        return self.size(ctx) * ctx.config.certify.n * pace.forward

    def _network(self, ctx: Context) -> Network:
        return NoisyNetwork(self.spec).network(ctx) if self.noisy else network(ctx, "point")

    def _index(self, ctx: Context) -> np.ndarray:
        if self.attacked:
            return examples(ctx).index[self.start : self.stop]
        return chosen(ctx)[self.start : self.stop]

    def _examples(self, ctx: Context) -> tuple[Tensor, np.ndarray]:
        rows = torch.from_numpy(self._index(ctx))
        test = ctx.dataset.test
        return test.x[rows].to(ctx.device), test.y[rows].numpy()


def chosen(ctx: Context) -> np.ndarray:
    """Return which test examples are certified: drawn by the run's seed, whether classified correctly or not."""
    count = len(ctx.dataset.test)
    return np.sort(shuffled(count, ctx.config.seed)[: min(count, ctx.config.certify.examples)])


def blocks(ctx: Context, spec: str, *, noisy: bool) -> Iterator[CertifiedExamples]:
    """Yield the certification of the chosen test examples."""
    count = len(chosen(ctx))
    for start in range(0, count, BLOCK):
        yield CertifiedExamples(spec, noisy, start, min(start + BLOCK, count))


def cases(config: Config) -> Iterator[tuple[str, bool]]:
    """Yield (region, whether the network was trained with it) of all that is certified."""
    for spec in config.certify.regions:
        yield spec, False
        if config.certify.trained:
            yield spec, True


def joined(ctx: Context, units: Iterable[CertifiedExamples]) -> dict[str, np.ndarray]:
    """Return the arrays of several blocks, one behind the other."""
    found = [ctx.arrays(unit) for unit in units]
    return {name: np.concatenate([arrays[name] for arrays in found]) for name in found[0]}


def _arrays(found: Certificates) -> dict[str, np.ndarray]:
    own: dict[str, Tensor] = {"label": found.label, "lower": found.lower, "samples": found.samples}
    own |= {str(norm): radius for norm, radius in found.radii.items()}
    return {name: tensor.cpu().numpy() for name, tensor in own.items()}
