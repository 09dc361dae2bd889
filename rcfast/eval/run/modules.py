"""Modules of the user's own, named on the command line."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from rcfast.eval.run.config import ConfigError


def load_module(name: str, *, option: str) -> ModuleType:
    """Import a module; the working folder is searched for it too. Raises ConfigError that says what is missing."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"{option}: cannot import {name}: {error}") from error


def load_factory(spec: str, *, option: str) -> Callable[..., Any]:
    """Return the callable that `module:factory` names. Raises ConfigError that says what is missing."""
    module_name, colon, name = spec.partition(":")
    if not colon or not module_name or not name:
        raise ConfigError(f"{option} takes module:factory, got {spec!r}")
    factory = getattr(load_module(module_name, option=option), name, None)
    if not callable(factory):
        raise ConfigError(f"{option}: {module_name} has no callable {name}")
    return factory
