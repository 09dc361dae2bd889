"""The tables and figures of the evaluation, one file each; NAMES lists them in their order.

A name is that of a module here whose OUTPUT is the table or figure. `register` adds one from elsewhere: it is planned,
measured, written and shown like those of the paper.
"""

from importlib import import_module

from rcfast.eval.outputs.output import Finding, KeyFigure, Output
from rcfast.eval.outputs.plot import Panel, Plot
from rcfast.eval.outputs.table import Cell, Matrix, Table
from rcfast.eval.results import Results
from rcfast.eval.run.config import ConfigError

__all__ = [
    "Cell",
    "Finding",
    "KeyFigure",
    "Matrix",
    "Output",
    "Panel",
    "Plot",
    "Table",
    "get",
    "names",
    "of",
    "register",
]

NAMES = (
    *("vote_attacks", "vote_noise", "vote_images", "vote_images_linf", "vote_images_l0"),
    *("worst", "curves", "optimality"),
    *("table2", "table3", "table4", "table5", "table6", "imported"),
    *("figure1", "figure2", "figure4", "figure5", "figure6", "figure7", "figure8", "figure9"),
    *("certified", "radii"),
    "regions",
    "checks",
)
ON_REQUEST = ("robustbench",)  # made where an option asks for them
_registered: dict[str, Output] = {}


def register(output: Output) -> Output:
    """Add an output behind the others, in place of one of the same class and name; return it.

    Raises:
        ValueError: the name is taken by another one, or no file can be called so.
    """
    name = output.name
    if not name.replace("-", "_").isidentifier():
        raise ValueError(f"name must be a word that a file can be called, got {name!r}")
    there = _registered.get(name)
    if name in (*NAMES, *ON_REQUEST) or (
        there is not None and type(there).__qualname__ != type(output).__qualname__
    ):
        raise ValueError(f"there is an output called {name!r} already")
    _registered[name] = output
    return output


def names() -> tuple[str, ...]:
    """Names of all outputs, in their order."""
    return (*NAMES, *_registered)


def get(name: str) -> Output:
    """Return an output by its name. Raises ConfigError for an unknown one."""
    if name in _registered:
        return _registered[name]
    if name not in (*NAMES, *ON_REQUEST):
        raise ConfigError(f"outputs are {', '.join(names())}, got {name!r}")
    found: Output = import_module(f"{__name__}.{name}").OUTPUT
    return found


def of(results: Results) -> list[Output]:
    """Return the outputs that a run was asked for."""
    return [get(name) for name in results.get("outputs", NAMES)]
