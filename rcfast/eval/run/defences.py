"""Who labels: the networks themselves, the region-based classifier, and a defence of the user's own.

A defence of one's own is an object with

    label(x) -> labels     x [N,C,H,W] float32 in [0,1] on the run's device; labels [N] int64

and, if it wants to be attacked white-box, `model`: a differentiable module from such x to logits [N,L].
Without `model` it gets the adversarial examples made for the undefended network, as the region-based
classifier does. `--defence module:factory` names a callable `factory(model, dataset)` that returns it:
`model` is the trained undefended network, `dataset` a rcfast.data.Dataset. An attribute `name` is what the
tables call it (default: the factory's name).
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from rcfast.classifier import RegionClassifier
from rcfast.data import Images
from rcfast.eval.results import DEFENCES
from rcfast.eval.run.config import ConfigError, Vote
from rcfast.eval.run.modules import code_digest, load_factory
from rcfast.eval.run.store import digest_arrays
from rcfast.eval.run.voter import Voter, precision
from rcfast.regions import Cube, Region
from rcfast.running import Model, Plain, device_of, evaluating, in_evaluation, labels_of, plain

_BATCH, _NUMBERS = 512, 1 << 22  # fixed, so that a network rounds alike in every run


class Defence(Protocol):
    """What a user's defence has to offer; `model` and `name` are optional."""

    def label(self, x: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Network:
    """A differentiable network that is attacked; `digest` identifies its weights and code."""

    name: str
    model: nn.Module
    digest: str
    like: Tensor  # [1,C,H,W]: the inputs are like this

    @cached_property
    def plain(self) -> Plain:
        """The network as a function from inputs to logits, whatever it needs."""
        return plain(self.model)

    def voter(self, dtype: str, region: Region) -> Voter:
        """The network as it votes on points of a region in a precision, which may be "auto"."""
        dtype = precision(dtype, region, self.like)
        voters: dict[str, Voter] = self.__dict__.setdefault("_voters", {})
        if dtype not in voters:
            voters[dtype] = Voter(self.model, dtype)
        return voters[dtype]

    def labels(self, x: Tensor) -> Tensor:
        """Return the labels [N] of x [N,...], always in slices of one size."""
        with evaluating(self.model):
            return in_batches(lambda part: labels_of(self.plain(part)), x)


@dataclass(frozen=True)
class Measured:
    """A defence under measurement.

    attacked: name of the network whose adversarial examples it is shown. seeds: of its votes, (None,) when
    nothing is random.
    """

    name: str
    attacked: str
    seeds: tuple[int | None, ...]

    @property
    def random(self) -> bool:
        return self.seeds != (None,)


@dataclass(frozen=True)
class Judge(Measured):
    """A defence that can label. identity: everything its labels depend on."""

    identity: dict[str, Any]
    _label: Callable[[Tensor, int | None], tuple[Tensor, Tensor | None]] = field(repr=False)

    @torch.no_grad()
    def label(self, x: Tensor, seed: int | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """Return labels [N] int64 of x [N,...] and, of votes, by which share of them [N] float32 each label leads."""
        said, lead = self._label(x, seed) if len(x) else (torch.zeros(0), None)
        return said.to("cpu", torch.int64).numpy(), None if lead is None else lead.cpu().numpy()


def in_batches(function: Callable[[Tensor], Tensor], x: Tensor | Images) -> Tensor:
    """Return function(x), computed in slices of a size that depends on the examples alone."""
    return torch.cat([function(part) for part in x.split(rows_at_once(x.shape[1:].numel()))])


def rows_at_once(coordinates: int, most: int = _BATCH) -> int:
    """Return how many examples go through a network at once: so many numbers as 27 colour images of 224×224 have."""
    return max(1, min(most, _NUMBERS // coordinates))


def point_judge(network: Network) -> Judge:
    """Return the plain network as a defence."""

    def label(x: Tensor, seed: int | None) -> tuple[Tensor, None]:
        return network.labels(x), None

    return Judge(network.name, network.name, (None,), {"network": network.digest}, label)


def region_classifier(
    network: Network, r: float, vote: Vote, *, seed: int, model: Model | None = None
) -> RegionClassifier:
    """Return the region-based classifier that the run measures. model: in the place of the network as it votes."""
    return RegionClassifier(
        model or network.voter(vote.dtype, Cube(r)),
        r,
        m=vote.m,
        clip=vote.clip,  # type: ignore[arg-type]
        stop=None if vote.stop == "none" else vote.stop,
        alpha=vote.alpha,
        seed=seed,
        chunk=vote.chunk,
    )


def region_judge(network: Network, r: float, vote: Vote) -> Judge:
    """Return the region-based classifier of `network` as a defence: one labelling for each vote seed."""
    identity = {
        "network": network.digest,
        "r": r,
        "m": vote.m,
        "clip": vote.clip,
        "stop": vote.stop,
        "alpha": vote.alpha if vote.stop == "sequential" else None,
        "chunk": vote.chunk,
        "dtype": network.voter(vote.dtype, Cube(r)).arithmetic(network.like),
    }

    def label(x: Tensor, seed: int | None) -> tuple[Tensor, Tensor]:
        votes = region_classifier(network, r, vote, seed=seed or 0).vote(x)
        first, second = votes.counts.topk(2, dim=1).values.float().unbind(1)
        return votes.label, (first - second) / votes.samples

    return Judge("region", network.name, tuple(vote.seeds), identity, label)


def weights_digest(model: nn.Module, described: Mapping[str, Any] | None = None) -> str:
    """Return the sha256 of what a network is made of, with `described`.

    Parameters and buffers; the classes of its modules, and what is set in them beside: numbers, strings and tensors.
    """
    told = [_class(model), str(sorted((described or {}).items()))]
    arrays: dict[str, np.ndarray] = {}
    for name, value in model.state_dict().items():
        _tell(name, value, told, arrays)
    if isinstance(model, torch.jit.ScriptModule):  # a frozen one holds its weights in its code
        graph = model.inlined_graph
        arrays |= {f"constant {k}": _array(value) for k, value in enumerate(_constants(graph))}
        told.append(re.sub(r"___torch_mangle_\d+|#.*", "", str(graph)))
    for name, module in () if isinstance(model, torch.jit.ScriptModule) else model.named_modules():
        told.append(f"{name} {_class(module)}")
        for key, value in sorted(vars(module).items()):
            if key not in _TORCHS_OWN:
                _tell(f"{name} {key}", value, told, arrays)
    return hashlib.sha256(f"{'|'.join(told)}|{digest_arrays(arrays)}".encode()).hexdigest()


_TORCHS_OWN = set(vars(nn.Module()))  # modes, hooks, and what the state has


def _class(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _tell(name: str, value: object, told: list[str], arrays: dict[str, np.ndarray]) -> None:
    """Add what is the same in every process: tensors, numbers, strings, and lists of these."""
    if isinstance(value, Tensor):
        arrays[name] = _array(value)
    elif isinstance(value, list | tuple):
        for k, part in enumerate(value):
            _tell(f"{name} {k}", part, told, arrays)
    elif value is None or isinstance(value, bool | int | float | str | torch.dtype):
        told.append(f"{name} {value}")


def _constants(graph: Any) -> Iterator[Tensor]:
    for node in graph.nodes():
        if "value" in node.attributeNames() and node.kindOf("value") == "t":
            yield node.t("value")
        for block in node.blocks():
            yield from _constants(block)


def _array(value: Tensor) -> np.ndarray:
    """Values as they are; those that NumPy does not know as float32, which holds them."""
    value = value.detach().cpu()
    if value.is_quantized:
        value = value.dequantize()
    if value.layout != torch.strided:
        value = value.to_dense()
    if value.is_complex():
        value = torch.view_as_real(value.resolve_conj())
    return value.float().numpy() if value.dtype in (torch.float16, torch.bfloat16) else value.numpy()


def user_defence(spec: str, network: Network, dataset: Any) -> tuple[Judge, Network | None]:
    """Return the user's defence as a judge, and its own network when it offers one.

    Raises ConfigError when it does not keep the interface.
    """
    factory = load_factory(spec, option="--defence")
    defence = factory(network.model, dataset)
    if not callable(getattr(defence, "label", None)):
        raise ConfigError(
            f"--defence: what {spec} returns must have a method label(x), got {type(defence).__name__}"
        )
    name = str(getattr(defence, "name", spec.partition(":")[2]))
    if name in DEFENCES:
        raise ConfigError(
            f"--defence: the name {name!r} is taken by a defence of the paper; give it another `name`"
        )
    code = code_digest(factory)
    model = getattr(defence, "model", None)
    own = None
    if model is not None:
        if not isinstance(model, nn.Module):
            raise ConfigError(f"--defence: model must be a torch module, got {type(model).__name__}")
        own = Network(name, in_evaluation(model), weights_digest(model, {"code": code}), network.like)
    probe = dataset.test.x[:64].to(device_of(network.model) or "cpu")
    said = _checked_labels(defence, probe, spec)
    identity = {"spec": spec, "code": code, "network": network.digest, "probe": said.tolist()}

    def label(x: Tensor, seed: int | None) -> tuple[Tensor, None]:
        return in_batches(lambda part: _checked_labels(defence, part, spec), x), None

    return Judge(name, own.name if own else network.name, (None,), identity, label), own


def _checked_labels(defence: Any, x: Tensor, spec: str) -> Tensor:
    said = defence.label(x.clone())  # a defence may work in place, and the data are not its own
    if not isinstance(said, Tensor) or said.shape != x.shape[:1] or said.is_floating_point():
        shape = tuple(said.shape) if isinstance(said, Tensor) else type(said).__name__
        raise ConfigError(f"--defence {spec}: label(x) must return integer labels [{len(x)}], got {shape}")
    return said
