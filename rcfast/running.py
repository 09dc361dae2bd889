"""How a model may be run: modes, gradients, precision, memory format, private inputs, and what it returns.

The one place that finds this out, for votes, attacks, training and evaluation alike. A model is left as it was
found.
"""

from __future__ import annotations

import functools
import inspect
import math
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

Model = Callable[[Tensor], Any]
TRIED = 4  # rows on which a model is tried
DEPTH, LOOKED_AT = (
    6,
    10_000,
)  # references from a callable to a module that are followed, and objects looked at
# What torch raises where a model does not fit what it is given; anything else is the user's own error.
UNFIT = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)


# ---- the modules of a model


def modules(model: Any) -> list[nn.Module]:
    """All modules of a model: its own, or those that a plain callable holds on to.

    Looked for in closures, defaults, bound objects, partial arguments, attributes, and globals that it names.
    """
    roots: list[nn.Module] = []
    seen: set[int] = set()
    todo = deque([(unwrapped(model), 0)])
    while todo and len(seen) < LOOKED_AT:
        thing, depth = todo.popleft()
        if id(thing) in seen or depth > DEPTH:
            continue
        seen.add(id(thing))
        if isinstance(thing, nn.Module):
            roots.append(thing)
        else:
            todo += [(part, depth + 1) for part in _held(thing)]
    return list(dict.fromkeys(module for root in roots for module in root.modules()))


def _held(thing: Any) -> list[Any]:
    """What a callable, or something it holds, refers to."""
    if isinstance(thing, functools.partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if isinstance(thing, types.MethodType):
        return [thing.__self__, thing.__func__]
    if isinstance(thing, types.FunctionType):
        cells = []
        for cell in thing.__closure__ or ():
            with suppress(ValueError):  # not filled yet
                cells.append(cell.cell_contents)
        named = [thing.__globals__[name] for name in _names(thing.__code__) if name in thing.__globals__]
        defaults = [*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]
        return [*cells, *named, *defaults, getattr(thing, "__wrapped__", None)]
    if isinstance(thing, Mapping):
        return list(thing.values())
    if isinstance(thing, list | tuple | set):
        return list(thing)
    if inspect.ismodule(thing) or isinstance(thing, type | Tensor):
        return []
    held = getattr(thing, "__dict__", None)
    return list(held.values()) if isinstance(held, dict) else []


def _names(code: types.CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def tensors(model: Any) -> list[Tensor]:
    """Parameters and buffers of a module; nothing for a plain callable, whose business they are."""
    model = unwrapped(model)
    return [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []


def device_of(model: Any) -> torch.device | None:
    """Where a module's parameters (else buffers) are; None for a callable or a module without any."""
    return next((tensor.device for tensor in tensors(model)), None)


def floating_dtype(model: Any) -> torch.dtype:
    """The dtype of the model's first floating parameter or buffer; float32 where it has none."""
    return next((t.dtype for t in tensors(model) if t.is_floating_point()), torch.float32)


def eager(model: Any) -> Any:
    """What torch.compile was given, or the model itself."""
    if isinstance(model, Plain):
        return Plain(eager(model.model))
    return getattr(model, "_orig_mod", None) or getattr(model, "_torchdynamo_orig_callable", None) or model


# ---- modes


@contextmanager
def mode(model: Any, training: bool) -> Iterator[None]:
    """Training or evaluation mode inside; afterwards every module is in the mode in which it was.

    Modes are changed by ``train``, which some modules use to do more (merge adapters, say). A module without a
    mode, or that refuses to change it (frozen TorchScript, exported programs), runs as it is.
    """
    before = {module: module.training for module in modules(model) if hasattr(module, "training")}
    try:
        for module in before:  # parents come first and take their children along
            if module.training != training:
                _switch(module, training)
        yield
    finally:
        for module, was in before.items():
            if module.training != was:
                _switch(module, was)
        for module, was in before.items():  # one that an overriding parent has changed again
            if module.training != was:
                module.training = was


def _switch(module: nn.Module, training: bool) -> None:
    with suppress(NotImplementedError, AttributeError):
        module.train(training)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode without gradients inside, on ordinary tensors; afterwards the modes are as they were.

    Not inference mode: under it a model that takes a gradient of its own gets none, silently, and what it keeps
    from a call cannot be trained or attacked later.
    """
    with mode(model, False), torch.inference_mode(False), torch.no_grad():
        yield


def in_training(model: Any) -> bool:
    """Whether a module, or one inside it, is in training mode and could be in another."""
    model = unwrapped(model)
    if not isinstance(model, nn.Module):
        return False
    if not any(getattr(module, "training", False) for module in model.modules()):
        return False
    with mode(model, False):
        return not any(getattr(module, "training", False) for module in model.modules())


# ---- what a model returns


def logits_of(out: Any, rows: int) -> Tensor:
    """The logits [rows, L], L >= 2, of what a model returned for so many rows.

    Taken from a field ``logits``, or from the only tensor of a tuple or dict. Raises TypeError or ValueError.
    """
    if not isinstance(out, Tensor):
        out = _field(out)
    if not out.is_floating_point():
        raise TypeError(f"model must return floating logits, got {out.dtype}")
    if rows == 1 and out.ndim == 1 and len(out) > 1:  # squeezed
        out = out[None]
    if out.ndim != 2 or len(out) != rows or out.shape[1] < 2:
        raise ValueError(
            f"model must return logits [N, L], L >= 2, got shape {tuple(out.shape)} for {rows} points"
        )
    return out


def _field(out: Any) -> Tensor:
    if isinstance(out, Mapping):
        named = {f"[{key!r}]": value for key, value in out.items()}
        chosen = out.get("logits")
    elif is_dataclass(out) and not isinstance(out, type):
        named = {f".{field.name}": getattr(out, field.name) for field in fields(out)}
        chosen = named.get(".logits")
    elif isinstance(out, tuple | list):
        named = {f"[{index}]": value for index, value in enumerate(out)}
        chosen = getattr(out, "logits", None)
    else:
        named, chosen = {}, getattr(out, "logits", None)
    held = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    if isinstance(chosen, Tensor):
        return chosen
    if len(held) == 1:
        return next(iter(held.values()))
    shown = ", ".join(f"{name} {list(value.shape)}" for name, value in held.items())
    some = f" with {shown}; name the one, as in lambda x: model(x){next(iter(held))}" if held else ""
    raise TypeError(f"model must return a tensor of logits [N, L], got {type(out).__name__}{some}")


def alike(a: Tensor, b: Tensor) -> bool:
    """Whether two outputs are the same up to rounding, for the coarser of their dtypes."""
    if a.shape != b.shape:
        return False
    eps = max(torch.finfo(t.dtype).eps for t in (a, b))
    scale = float(a.detach().abs().nan_to_num(0, 0, 0).amax()) if a.numel() else 0.0
    return torch.allclose(
        a.detach().double(), b.detach().double(), rtol=0, atol=math.sqrt(eps) * scale, equal_nan=True
    )


# ---- the model as a plain function


@dataclass(frozen=True)
class Needs:
    """What was found out about a model on inputs of one shape."""

    dtype: torch.dtype  # of its inputs
    channels_last: bool  # images in this memory format give the same logits
    copies: bool  # it changes its input in place, and must not get the caller's
    repeats: bool  # the same input gives the same logits
    labels: int  # L


class Plain:
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
        """The same with the weights of convolutions in channels_last, the user's kept.

        Itself where the model has none, or gives other logits or gradients so, or none.
        """
        key = (x.shape[1:], x.dtype, x.device)
        if key not in self._reformatted:
            twin = _reformatted(self.model) if x.ndim == 4 else None
            if twin is not None:
                twin._needs[key] = self.needs(x)
            agrees = twin is not None and _same_gradients(self, twin, x)
            self._reformatted[key] = twin if twin is not None and agrees else self
        return self._reformatted[key]

    def __repr__(self) -> str:
        return f"Plain({self.model!r})"


def plain(model: Model) -> Plain:
    """The model as a :class:`Plain`; itself if it is one."""
    return model if isinstance(model, Plain) else Plain(model)


def unwrapped(model: Any) -> Any:
    """The model inside a :class:`Plain`, or the model itself."""
    return model.model if isinstance(model, Plain) else model


def noise(like: Tensor, rows: int = TRIED) -> Tensor:
    """Inputs [rows, ...] in [0,1] on which models are tried, always the same: nobody's company decides."""
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(rows, *like.shape[1:], generator=generator)
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
            out = function(tried)
        except torch.OutOfMemoryError:
            raise
        except UNFIT as failure:
            error = error or unfit(failure, sample.shape[1:], dtype)
            error.__cause__ = error.__cause__ or failure
            continue
        logits = logits_of(out, len(sample))
        copies = tried._version != version or not torch.equal(tried, clean)
        again = logits_of(function(clean.clone()), len(sample))
        last = clean.ndim == 4 and _gives(function, _channels_last(clean), logits)
        return Needs(dtype, last, copies, alike(logits, again), logits.shape[1])
    assert error is not None
    raise error


# ---- memory format


def _channels_last(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.channels_last)


def _gives(function: Model, x: Tensor, expected: Tensor) -> bool:
    """Whether a function of x [N, ...] returns the expected logits, up to rounding, rather than raise."""
    try:
        return alike(logits_of(function(x), len(x)), expected)
    except UNFIT:
        return False


def _reformatted(model: Model) -> Plain | None:
    """A module called with other weights; None where it has no convolution, or has chosen its own layout."""
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        return None
    if hasattr(model, "_orig_mod"):
        return None
    weights = {
        f"{name}.weight": module.weight.detach().to(memory_format=torch.channels_last)
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Conv2d) and "weight" in module._parameters
    }
    return Plain(lambda x: torch.func.functional_call(model, weights, (x,))) if weights else None


def _same_gradients(model: Plain, twin: Plain, x: Tensor) -> bool:
    """Whether both give the same logits and gradients in images like x [N, C, H, W], up to rounding."""
    with evaluating(model.model), torch.enable_grad():
        results = []
        for function in (model, twin):
            leaf = noise(x).requires_grad_()
            try:
                logits = function(leaf)
                spread = torch.arange(logits.shape[1], device=leaf.device, dtype=logits.dtype)
                results.append((logits, *torch.autograd.grad((logits * spread).sum(), leaf)))
            except UNFIT:
                return False
    return all(alike(a, b) for a, b in zip(*results, strict=True))
