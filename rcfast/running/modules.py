"""The modules of a model, found also behind a plain callable, and their modes, left as they were found."""

from __future__ import annotations

import functools
import inspect
import threading
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from rcfast import hooks

Model = Callable[[Tensor], Any]
DEPTH, LOOKED_AT = (
    6,
    10_000,
)  # references from a callable to a module that are followed, and objects looked at


class Wrapper:
    """A callable that stands for the model inside it."""

    model: Any


def unwrapped(model: Any) -> Any:
    """The model inside a :class:`Wrapper`, or the model itself."""
    return model.model if isinstance(model, Wrapper) else model


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
    if isinstance(thing, dict | types.MappingProxyType):  # others may read a file for each value
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


def attributes_of(model: Any, *, versions: bool = True) -> list[Any]:
    """What the modules of a model hold beside parameters, buffers, children and modes, to be compared with ==.

    Numbers and strings by value, containers by what they hold, tensors by where they are and, with ``versions``, by
    whether they were written to; others by identity.
    """
    model = unwrapped(model)
    apart = {"training", "_parameters", "_buffers", "_modules"}
    found: list[Any] = []
    for module in model.modules() if isinstance(model, nn.Module) else ():
        found.append(type(module))
        for name, thing in vars(module).items():
            if name not in apart:
                found.append(name)
                found.append(_value(thing, versions))
    return found


class _Identity:
    """A thing that equals itself alone; kept, so that no other can take its address."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and other.thing is self.thing

    __hash__ = None  # type: ignore[assignment]


_SIMPLE = (bool, int, float, str, bytes, type(None), torch.dtype, torch.device)
_EXACTLY = frozenset(_SIMPLE)  # asked first: isinstance takes long, and this is done for every vote
_HOLDERS = frozenset((dict, OrderedDict, list, tuple, set))  # most of what a module holds, and mostly empty


def _value(thing: Any, versions: bool, depth: int = 0) -> Any:
    kind = type(thing)
    if kind in _EXACTLY:
        return kind, thing
    if kind in _HOLDERS and not thing:
        return kind
    if isinstance(thing, _SIMPLE):
        return kind, thing
    if isinstance(thing, Tensor):
        return thing.data_ptr(), thing.shape, thing._version if versions and not thing.is_inference() else 0
    if isinstance(thing, list | tuple | set | dict) and depth < DEPTH:
        parts = thing.items() if isinstance(thing, dict) else thing
        return type(thing), [_value(part, versions, depth + 1) for part in parts]
    return _Identity(thing)


def tensors(model: Any) -> list[Tensor]:
    """Parameters and buffers of a module; nothing for a plain callable, whose business they are."""
    model = unwrapped(model)
    if not isinstance(model, nn.Module):
        return []
    parts = list(model.modules())  # parameters() and buffers() would each walk through them, and name each
    found: list[Tensor | None] = [t for part in parts for t in part._parameters.values()]
    found += [t for part in parts for t in part._buffers.values()]
    return [t for t in dict.fromkeys(found) if t is not None]


def device_of(model: Any) -> torch.device | None:
    """Where a module's parameters (else buffers) are; None for a callable or a module without any."""
    return next((tensor.device for tensor in tensors(model)), None)


def floating_dtype(model: Any) -> torch.dtype:
    """The dtype of the model's first floating parameter or buffer; float32 where it has none."""
    return next((t.dtype for t in tensors(model) if t.is_floating_point()), torch.float32)


# ---- modes


class _Stay:
    """In a mode, for the modules that have come into it, each with the mode before."""

    before: dict[nn.Module, bool]


_MODES = threading.RLock()
_stays: list[_Stay] = []  # of all threads, in the order in which they began


@contextmanager
def mode(model: Any, training: bool) -> Iterator[None]:
    """Training or evaluation mode inside; afterwards every module is in the mode in which it was.

    Modes are changed by ``train``, which some modules use to do more (merge adapters, say). A module without a
    mode, or that refuses to change it (frozen TorchScript, exported programs), runs as it is.
    """
    own = _Stay()
    with _MODES:
        own.before = {module: module.training for module in modules(model) if hasattr(module, "training")}
        for module in own.before:  # parents come first and take their children along
            if module.training != training:
                _switch(module, training)
        _stays.append(own)
    try:
        yield
    finally:
        with _MODES:
            place = _stays.index(own)
            del _stays[place]
            for later in _stays[place:]:  # of another thread, which goes on: it leaves what this one found
                for module in own.before.keys() & later.before.keys():
                    later.before[module] = own.before.pop(module)
            for module, was in own.before.items():
                if module.training != was:
                    _switch(module, was)
            for module, was in own.before.items():  # one that an overriding parent has changed again
                if module.training != was:
                    module.training = was


def _switch(module: nn.Module, training: bool) -> None:
    with suppress(NotImplementedError, AttributeError, RuntimeError):
        module.train(training)


@contextmanager
def unseen_in_training(model: Any) -> Iterator[set[str]]:
    """Kinds of modules that run in training mode inside and are none of those that :func:`modules` finds."""
    known, thread = set(modules(model)), threading.get_ident()
    found: set[str] = set()

    def look(module: nn.Module, args: Any) -> None:
        if getattr(module, "training", False) and module not in known and threading.get_ident() == thread:
            found.add(type(module).__name__)

    hooks.OWN.add(look)
    handle = register_module_forward_pre_hook(look)
    try:
        yield found
    finally:
        handle.remove()
        hooks.OWN.discard(look)


def in_evaluation(model: Any) -> Any:
    """The model itself, for good in evaluation mode as far as it has one."""
    for module in modules(model):
        if getattr(module, "training", False):
            _switch(module, False)
    return model


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
