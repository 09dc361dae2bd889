"""Modules of the user's own, named on the command line, and what they are made of."""

import ast
import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
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


def code_digest(factory: Callable[..., Any]) -> str:
    """Return the sha256 of all code that a factory's module is made of, so that a changed one is measured anew.

    The source of the module and of all that it imports, one from the other, outside installed packages, of compiled
    ones the file; of installed packages the version. Found are import statements wherever they stand, not imports
    by computed names.
    """
    importlib.invalidate_caches()
    module = inspect.getmodule(factory)
    total, sources, others = hashlib.sha256(), {}, set()
    todo = [module.__name__] if module is not None else []
    while todo:
        name = todo.pop()
        if name in sources or name in others:
            continue
        path = _source(name)
        if path is None:
            others.add(name)
            continue
        sources[name] = path.read_bytes()
        if path.suffix == ".py":
            todo += _imported(sources[name], name, is_package=path.name == "__init__.py")
    for name in sorted(sources):
        total.update(f"{name}\n".encode() + sources[name] + b"\0")
    for name in sorted({name.partition(".")[0] for name in others} - set(sources)):
        total.update(f"{name} {_version(name)}\n".encode())
    return total.hexdigest()


def _imported(source: bytes, module: str, *, is_package: bool) -> Iterator[str]:
    """Yield the names of the modules that a source imports, packages above them included."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(base, package) if node.level else base
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[: k + 1]) for k in range(len(parts)))


def _source(name: str) -> Path | None:
    """Return the file of a module of the user's own; None for what is installed, built in, or no module."""
    if name.partition(".")[0] in {*sys.stdlib_module_names, "rcfast"}:
        return None
    known = sys.modules.get(name)
    try:
        spec = known.__spec__ if known is not None else importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):  # an attribute, not a module
        return None
    file = getattr(known, "__file__", None) or (spec.origin if spec is not None else None)
    path = Path(file).resolve() if file is not None else None
    return None if path is None or not path.is_file() or _installed(path) else path


def _installed(path: Path) -> bool:
    """Whether a file belongs to Python or an installed package: this environment's, the user's or the system's."""
    folders = {Path(sysconfig.get_path(key)).resolve() for key in ("purelib", "platlib", "stdlib")}
    return bool({"site-packages", "dist-packages"} & set(path.parts)) or any(
        path.is_relative_to(folder) for folder in folders
    )


def _version(package: str) -> str:
    """Return the version of an installed package, found by the name under which it is imported."""
    for distribution in _distributions().get(package, ()):
        return f"{distribution} {metadata.version(distribution)}"
    return ""


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()
