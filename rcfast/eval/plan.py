"""Which networks, attacks and votes the wanted outputs need; nothing else is run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rcfast.eval.config import TARGETED, TRAINED, Config, ConfigError
from rcfast.eval.results import OUTPUTS

Scope = Literal["drawn", "grid", "histogram"]  # all drawn examples, one for each label, the one of Figure 2
HISTOGRAM_ATTACKS = ("T-CW-L2", "T-CW-L0", "T-CW-Linf")


@dataclass(frozen=True)
class Unit:
    """One attack on one network; `confidence` is 0 but for the high-confidence T-CW-L2."""

    network: str
    attack: str
    confidence: float = 0.0

    def __str__(self) -> str:
        k = f" k={self.confidence:g}" if self.confidence else ""
        return f"{self.attack}{k} on {self.network}"


@dataclass(frozen=True)
class Plan:
    outputs: tuple[str, ...]
    networks: tuple[str, ...]  # to be trained or loaded; the user's own defence adds its network later
    benign: bool  # measure accuracy on the whole test set
    length: bool  # learn r
    units: dict[Unit, frozenset[Scope]]
    adapted: dict[Unit, dict[float, frozenset[Scope]]]  # alpha -> on which examples


def parse_only(text: str | None) -> tuple[str, ...]:
    """Return the outputs of a comma-separated list, in the paper's order; all of them for None.

    Raises ConfigError for an unknown name.
    """
    if text is None:
        return OUTPUTS
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in OUTPUTS:
            raise ConfigError(f"--only takes {', '.join(OUTPUTS)}, got {name!r}")
    if not names:
        raise ConfigError("--only names nothing")
    return tuple(name for name in OUTPUTS if name in names)


def make_plan(config: Config, outputs: Sequence[str] = OUTPUTS, *, extra: Sequence[str] = ()) -> Plan:
    """Return what `outputs` need.

    extra: names of networks beyond the trained ones to attack (a user's defence that has one).
    """
    trained = tuple(name for name in TRAINED if name in config.defences)
    units: dict[Unit, set[Scope]] = {}
    adapted: dict[Unit, dict[float, set[Scope]]] = {}
    for output in outputs:
        for unit, scope in _needs(config, output, (*trained, *extra)):
            units.setdefault(unit, set()).add(scope)
        for unit, alpha, scope in _adapts(config, output):
            units.setdefault(unit, set()).add(scope)
            adapted.setdefault(unit, {}).setdefault(alpha, set()).add(scope)
    attacked = {unit.network for unit in units}
    benign = "table3" in outputs
    region = "region" in config.defences
    judged = any(name not in ("table2", "table3", "figure1") for name in outputs)
    return Plan(
        outputs=tuple(outputs),
        networks=tuple(n for n in trained if benign or n in attacked or n == "point"),
        benign=benign,
        length=(region and (benign or judged)) or "figure2" in outputs or "figure4" in outputs,
        units={unit: frozenset(scopes) for unit, scopes in units.items()},
        adapted={u: {a: frozenset(s) for a, s in alphas.items()} for u, alphas in adapted.items()},
    )


def _needs(config: Config, output: str, networks: Sequence[str]) -> Iterator[tuple[Unit, Scope]]:
    attacks = config.attacks
    targeted = [name for name in TARGETED if name in attacks.names]
    if output in ("table4", "table5", "table6"):
        for network in networks:
            for name in targeted:
                yield Unit(network, name), "drawn"
            if output != "table4" and "DeepFool" in attacks.names:
                yield Unit(network, "DeepFool"), "drawn"
    if output in ("table6", "figure6", "figure7") and "T-CW-L2" in targeted:
        for network in networks:
            if network in attacks.confidence_models or (
                network not in TRAINED and "user" in attacks.confidence_models
            ):
                for k in attacks.confidences:
                    yield Unit(network, "T-CW-L2", k), "drawn"
    if output == "figure1" and "T-CW-L2" in targeted:
        yield Unit("point", "T-CW-L2"), "grid"
    if output == "figure5" and "T-CW-L2" in targeted:
        yield Unit("point", "T-CW-L2", attacks.grid_confidence), "grid"
    if output == "figure2":
        for name in HISTOGRAM_ATTACKS:
            if name in targeted:
                yield Unit("point", name), "histogram"


def _adapts(config: Config, output: str) -> Iterator[tuple[Unit, float, Scope]]:
    attacks = config.attacks
    if output == "figure8":
        for name in attacks.adapted:
            if name in attacks.names:
                for alpha in attacks.alphas:
                    yield Unit("point", name), alpha, "drawn"
    if output == "figure9" and "T-CW-L2" in attacks.names:
        yield Unit("point", "T-CW-L2"), attacks.grid_alpha, "grid"
