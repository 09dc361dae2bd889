"""The paper's printed numbers, to stand beside ours: facts, as printed, from paper.json with their source."""

import json
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any

PERCENT = Decimal(100)


@dataclass(frozen=True)
class Printed:
    """A number as the paper prints it, and so the range of values that round to it.

    `scale` divides what is printed (100 for percent). The printed 0.10 stands for 0.095 to 0.105.
    """

    text: str
    scale: Decimal = Decimal(1)

    @property
    def value(self) -> float:
        return float(Decimal(self.text) / self.scale)

    @property
    def rounding(self) -> float:
        """Half a unit of the last digit: by how much a value that is printed like this may differ."""
        exponent = int(Decimal(self.text).as_tuple().exponent)
        return float(Decimal((0, (5,), exponent - 1)) / self.scale)


@dataclass(frozen=True)
class Cell:
    """One cell of Tables 4 to 6: success rate (a share) and mean noise in the attack's norm."""

    success: Printed
    noise: Printed


@cache
def document() -> dict[str, Any]:
    """paper.json as it is: title, source and every printed value."""
    text = files("rcfast.eval").joinpath("paper.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def publishes(dataset: str) -> bool:
    """Whether the paper reports on the data set of this name: "mnist" or "cifar10"."""
    return dataset in document()["split"]


def split(dataset: str) -> tuple[int, int, int] | None:
    """Table 2: numbers of training, validation and test examples."""
    sizes = document()["split"].get(dataset)
    return tuple(sizes) if sizes else None


def length(dataset: str) -> Printed | None:
    """Section 6.1: the learnt length r."""
    printed = document()["length"].get(dataset)
    return Printed(printed) if printed else None


def accuracy(dataset: str, defence: str) -> Printed | None:
    """Table 3: share of benign test examples that `defence` labels correctly."""
    printed = document()["accuracy"].get(dataset, {}).get(defence)
    return Printed(printed, PERCENT) if printed else None


def cell(dataset: str, attack: str, defence: str) -> Cell | None:
    """Tables 4 to 6: the cell of `attack` (the paper's name) and `defence`, None where there is none."""
    for table in ("table4", "table5", "table6"):
        printed = document()[table].get(dataset, {}).get(attack, {}).get(defence)
        if printed:
            return Cell(Printed(printed[0], PERCENT), Printed(printed[1]))
    return None


def trials(attack: str) -> int:
    """Section 6.3: on how many adversarial examples a printed rate rests, all targets of an image being counted."""
    own = document()["protocol"]
    return int(own["examples"] * (own["targets"] if attack.startswith("T-") else 1))


def attacks(table: str) -> tuple[str, ...]:
    """Names of the attacks of "table4", "table5" or "table6", in the paper's order; none for others."""
    return tuple(document().get(table, {}).get("mnist", ()))


def figure(name: str, dataset: str) -> dict[str, Any]:
    """What the text says about a figure: `text`, and for a data set of the paper its numbers, if any."""
    found: dict[str, Any] = document()["figures"].get(name, {})
    return {"text": found.get("text", "")} | found.get(dataset, {})
