"""A model as a plain function from inputs to logits; what it needs is found out by running it on a few rows."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rcfast.fused import fused

from .modules import (
    Model,
    Wrapper,
    evaluating,
    floating_dtype,
    modules,
    tensors,
    unseen_in_training,
    unwrapped,
)
from .outputs import alike, logits_of

TRIED = 4  # rows on which a model is tried
# What torch raises where a model does not fit what it is given; anything else is the user's own error.
UNFIT = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)


@dataclass(frozen=True)
class Needs:
    """What was found out about a model on inputs of one shape."""

    dtype: torch.dtype  # of its inputs
    channels_last: bool  # images in this memory format give the same logits
    copies: bool  # it changes its input in place, and must not get the caller's
    repeats: bool  # the same input gives the same logits
    labels: int  # L


class Plain(Wrapper):
    """A model as a plain function from x [N, ...] in [0,1], any floating dtype, to logits [N, L].

    Differentiable as the model is. Modes are the caller's: see :func:`evaluating`. What the model needs is
    found out at the first call for each shape, in evaluation mode, on a few rows of fixed noise. Raises
    TypeError or ValueError, naming the model, where it cannot be run on such inputs or returns no logits.

    ``tried``: rows of that noise.
    """

    def __init__(self, model: Model, *, tried: int = TRIED) -> None:
        self.model, self.tried = model, tried
        self._needs: dict[Any, Needs] = {}
        self._reformatted: dict[Any, Plain] = {}

    def __call__(self, x: Tensor) -> Tensor:
        needs = self.needs(x)
        given = x.to(needs.dtype)
        if needs.copies and given is x:
            given = x.clone()
        return logits_of(self.model(given), len(x))

    def needs(self, x: Tensor) -> Needs:
        """What the model needs on inputs like x [N, ...]."""
        key = (x.shape[1:], x.dtype, x.device)
        if key not in self._needs:
            with evaluating(self.model):
                self._needs[key] = _find_out(self.model, noise(x, self.tried))
        return self._needs[key]

    def reformatted(self, x: Tensor) -> Plain:
        """The same with faster convolutions: on our own kernel, or with weights in channels_last, the user's kept.

        Itself where the model has none, or gives other logits or gradients so, or none.
        """
        key = (x.shape[1:], x.dtype, x.device)
        kept = self._reformatted.get(key)
        if kept is None or not (kept is self or kept.model.refresh()):
            twins = _faster(self.model) if x.ndim == 4 else []
            for twin in twins:
                twin._needs[key] = self.needs(x)
            self._reformatted[key] = next((twin for twin in twins if _same_gradients(self, twin, x)), self)
        return self._reformatted[key]

    def agrees(self, function: Model, x: Tensor) -> bool:
        """Whether another function gives the same logits on inputs like x [N, ...], up to rounding."""
        few = noise(x, self.tried)
        with evaluating(self.model):
            return _gives(function, few, self(few))

    def __repr__(self) -> str:
        return f"Plain({self.model!r})"


def plain(model: Model) -> Plain:
    """The model as a :class:`Plain`; itself if it is one."""
    return model if isinstance(model, Plain) else Plain(model)


def eager(model: Any) -> Any:
    """What torch.compile was given, or the model itself."""
    if isinstance(model, Plain):
        return Plain(eager(model.model))
    held = {**getattr(model, "__dict__", {})}  # its own: a wrapper may answer for what it wraps
    held |= held.get("_modules") or {}
    return held.get("_orig_mod") or held.get("_torchdynamo_orig_callable") or model


def warn_of_randomness(needs: Needs, what: str) -> None:
    """Warns where a model answers differently each time; `what` cannot be repeated then."""
    if not needs.repeats:
        warnings.warn(
            f"model answers differently each time it is given the same input: {what} cannot be repeated",
            RuntimeWarning,
            stacklevel=3,
        )


def noise(like: Tensor, rows: int = TRIED) -> Tensor:
    """Inputs [rows, ...] in [0,1] on which models are tried, always the same: nobody's company decides."""
    generator = torch.Generator("cpu").manual_seed(0)
    values = torch.rand(rows, *like.shape[1:], generator=generator, dtype=torch.float32, device="cpu")
    return values.to(like.device, like.dtype)


def check_initialised(model: Any) -> None:
    """Raises ValueError for a model with lazy layers that have no weights yet."""
    model = unwrapped(model)
    for name, module in model.named_modules() if isinstance(model, nn.Module) else ():
        weights = [*module._parameters.values(), *module._buffers.values()]
        if any(is_lazy(weight) for weight in weights):
            raise ValueError(
                f"model has a lazy layer without weights, {name or 'itself'} ({type(module).__name__}): "
                "run it once on a batch of inputs first"
            )


def dtypes(model: Any, given: torch.dtype) -> list[torch.dtype]:
    """Dtypes of inputs to try: the model's own, that of what is given, those of the modules it calls, float32."""
    found = [t.dtype for m in modules(model) for t in m.parameters(recurse=False) if t.is_floating_point()]
    own = [floating_dtype(model)] if any(t.is_floating_point() for t in tensors(model)) else []
    return list(dict.fromkeys([*own, given, *found, torch.float32]))


def unfit(model_error: Exception, shape: torch.Size, dtype: torch.dtype) -> Exception:
    """The error, in one line that names the model and its inputs."""
    reason = " ".join(str(model_error).split("\n")[0].split()) or type(model_error).__name__
    kind = TypeError if isinstance(model_error, TypeError) else ValueError
    where = f"[N, {', '.join(map(str, shape))}], {str(dtype).removeprefix('torch.')}"
    return kind(f"model cannot be run on inputs {where}: {reason}")


def _find_out(model: Model, sample: Tensor) -> Needs:
    check_initialised(model)
    function, error = eager(model), None
    for dtype in dtypes(model, sample.dtype):
        clean = sample.to(dtype)
        tried = clean.clone()
        version = tried._version
        try:
            with unseen_in_training(model) as unseen:
                out = function(tried)
        except torch.OutOfMemoryError:
            raise
        except UNFIT as failure:
            error = error or unfit(failure, sample.shape[1:], dtype)
            error.__cause__ = error.__cause__ or failure
            continue
        _warn_of_training(unseen)
        logits = logits_of(out, len(sample))
        copies = tried._version != version or not torch.equal(tried, clean)
        again = logits_of(function(clean.clone()), len(sample))
        last = clean.ndim == 4 and _gives(function, _channels_last(clean), logits)
        return Needs(dtype, last, copies, alike(logits, again), logits.shape[1])
    assert error is not None
    raise error


def _warn_of_training(kinds: set[str]) -> None:
    """Warns of modules behind a callable that nobody can put into evaluation mode but the user."""
    if kinds:
        warnings.warn(
            f"model runs modules in training mode ({', '.join(sorted(kinds))}) that cannot be found in it: answers "
            "depend on the batch, and statistics change; call .eval() on them first",
            RuntimeWarning,
            stacklevel=4,
        )


# ---- memory format


def _channels_last(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.channels_last)


def _gives(function: Model, x: Tensor, expected: Tensor) -> bool:
    """Whether a function of x [N, ...] returns the expected logits, up to rounding, rather than raise."""
    try:
        return alike(logits_of(function(x), len(x)), expected)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # what a model may ask of itself is without end
        return False


def _faster(model: Model) -> list[Plain]:
    """A module on our own convolutions, and called with other weights; nothing for one that chose its own layout."""
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        return []
    if hasattr(model, "_orig_mod"):
        return []
    ours = fused(model)
    there = _InChannelsLast(model)
    return [Plain(twin) for twin in (ours, there if there.refresh() else None) if twin is not None]


class _InChannelsLast:
    """A module called with copies of its convolutions' weights in channels_last."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def refresh(self) -> bool:
        """Take over today's weights; False where there are none."""
        self.weights = {
            f"{name}.weight": module.weight.detach().clone(memory_format=torch.channels_last)
            for name, module in self.model.named_modules(remove_duplicate=False)
            if isinstance(module, nn.Conv2d) and "weight" in module._parameters
        }
        return bool(self.weights)

    def __call__(self, x: Tensor) -> Any:
        return torch.func.functional_call(self.model, self.weights, (x,))


def _same_gradients(model: Plain, twin: Plain, x: Tensor) -> bool:
    """Whether both give the same logits and gradients in images like x [N, C, H, W], up to rounding.

    That of an activation next to 0 turns a ReLU over, and changes an image's gradient by more than rounding: half of
    the images are enough.
    """
    with evaluating(model.model), torch.enable_grad():
        results = []
        for function in (model, twin):
            leaf = noise(x).requires_grad_()
            try:
                logits = function(leaf)
                spread = torch.arange(logits.shape[1], device=leaf.device, dtype=logits.dtype)
                results.append((logits, *torch.autograd.grad((logits * spread).sum(), leaf)))
            except torch.OutOfMemoryError:
                raise
            except Exception:
                return False
    (logits, gradients), (other, others) = results
    same = [alike(a, b) for a, b in zip(gradients, others, strict=True)]
    return alike(logits, other) and 2 * sum(same) >= len(same)
