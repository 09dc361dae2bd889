"""How a configuration is made: TOML presets, single values overridden, all checked before any work."""

import dataclasses
import difflib
import functools
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from rcfast.eval.results import DEFENCES
from rcfast.eval.run.config import (
    ADAPTABLE,
    LIBRARIES,
    ON_VOTES,
    PRESETS,
    STOPS,
    TARGETED,
    TRAINED,
    TRAINING_ATTACK,
    Config,
    ConfigError,
    Data,
)


def preset_table(name: str) -> dict[str, Any]:
    """Return the TOML table of a preset of the package, or of a file that ends in .toml."""
    try:
        if name.endswith(".toml"):
            return tomllib.loads(Path(name).read_text())
        if name not in PRESETS:
            raise ConfigError(f"preset must be one of {', '.join(PRESETS)} or a .toml file, got {name!r}")
        return tomllib.loads((resources.files("rcfast.eval") / "presets" / f"{name}.toml").read_text())
    except OSError as error:
        raise ConfigError(f"preset {name}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"preset {name} is no TOML: {error}") from error


def parse_setting(text: str) -> tuple[list[str], Any]:
    """Split `a.b=value`; the value is read as TOML, or else as a string."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"--set takes key=value, got {text!r}")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    return name.strip().split("."), parsed


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `over`, table by table; an empty table replaces what is there."""
    merged = dict(base)
    for name, value in over.items():
        both = value and isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merge(merged[name], value) if both else value
    return merged


def _nested(path: list[str], value: Any) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    return value


def _at(table: Any, *path: str) -> Any:
    """Return what lies at a path of nested tables, None where nothing does."""
    for name in path:
        table = table.get(name) if isinstance(table, Mapping) else None
    return table


def _untune(table: dict[str, Any], asked: Mapping[str, Any]) -> None:
    """Remove settings that a preset tuned for a choice which is now another: they would not fit it."""
    attack, tuned = _at(asked, "train", "adversarial", "attack"), _at(table, "train", "adversarial")
    if isinstance(tuned, dict) and attack not in (None, tuned.get("attack", TRAINING_ATTACK)):
        tuned.pop("attack_settings", None)
    attacks = _at(table, "attacks")
    if isinstance(attacks, dict) and _at(asked, "attacks", "budget") is not None:
        for name in ("settings", "confidence_settings"):
            attacks.pop(name, None)


def build(
    preset: str = "quick", *, overrides: Mapping[str, Any] | None = None, settings: Iterable[str] = ()
) -> Config:
    """Return the configuration: the preset, its part for the data set, then `overrides`, then `settings`.

    overrides: nested, as in the TOML. settings: strings `key.key=value`. Tables are merged, but an empty one
    replaces the preset's; another `train.adversarial.attack` drops the `attack_settings` of the preset's, a given
    `attacks.budget` the preset's `attacks.settings` and `attacks.confidence_settings`.
    Raises ConfigError for an unknown key, a wrong type or a value out of range, naming the key.
    """
    table = preset_table(preset)
    special = table.pop("dataset", {})
    changes = [overrides or {}, *(_nested(*parse_setting(text)) for text in settings)]
    asked: dict[str, Any] = functools.reduce(_merge, changes, {})
    chosen = _at(asked, "data", "name") or _at(table, "data", "name") or Data.name
    table = _merge(table, special.get(str(chosen), {}))
    _untune(table, asked)
    table = functools.reduce(_merge, changes, table)
    config = _read(Config, {**table, "preset": preset}, "")
    validate(config)
    return config


def _read(kind: Any, table: Any, where: str) -> Any:
    """Return a dataclass filled from a table, each value checked against its annotation."""
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} must be a table, got {table!r}")
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, value in table.items():
        path = f"{where}.{name}" if where else name
        if name not in hints:
            close = difflib.get_close_matches(name, hints, 1)
            raise ConfigError(f"unknown setting {path}" + (f"; did you mean {close[0]}?" if close else ""))
        values[name] = _value(hints[name], value, path)
    return kind(**values)


def _value(hint: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _read(hint, value, path)
    origin = typing.get_origin(hint) or hint
    if origin is list:
        if not isinstance(value, list):
            raise ConfigError(f"{path} must be a list, got {value!r}")
        (inner,) = typing.get_args(hint)
        return [_value(inner, item, f"{path}[{index}]") for index, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path} must be a table, got {value!r}")
        inner = typing.get_args(hint)[1]
        return {str(k): v if inner is Any else _value(inner, v, f"{path}.{k}") for k, v in value.items()}
    if hint is float and type(value) is int:
        return float(value)
    if isinstance(hint, types.UnionType) or type(value) is not hint:
        raise ConfigError(f"{path} must be of type {hint.__name__}, got {value!r}")
    return value


def _need(holds: bool, name: str, must: str, value: Any) -> None:
    if not holds:
        raise ConfigError(f"{name} must {must}, got {value!r}")


def _of_a_library(attack: str) -> bool:
    library, colon, _ = attack.removeprefix("T-").partition(":")
    return bool(colon) and library in LIBRARIES


def validate(config: Config) -> None:
    """Raise ConfigError for the first value out of range."""
    length, vote, protocol, attacks = config.length, config.vote, config.protocol, config.attacks
    certify = config.certify
    known = set(DEFENCES)
    for name in config.defences:
        _need(name in known, "defences", f"be among {', '.join(DEFENCES)}", name)
    _need(bool(config.defences), "defences", "name at least one", config.defences)
    _need(
        "point" in config.defences,
        "defences",
        "contain point: the others are compared with it",
        config.defences,
    )
    _need(config.threads >= 0, "threads", "not be negative", config.threads)
    _need(config.training_threads >= 0, "training_threads", "not be negative", config.training_threads)
    for name in ("validation", "test", "size"):
        value = getattr(config.data, name)
        _need(value >= 0, f"data.{name}", "not be negative", value)
    _need(
        not config.model.weights or config.model.source.partition(":")[0] in ("torchvision", "timm", "hf"),
        "model.weights",
        "be of a network of torchvision, timm or hf (--model torchvision:NAME)",
        config.model.weights,
    )
    _need(length.r <= 1, "length.r", "be at most 1", length.r)
    _need(
        0 <= length.r0 <= length.r_max <= 1,
        "length.r0 <= length.r_max",
        "lie in [0, 1]",
        [length.r0, length.r_max],
    )
    _need(0 < length.step <= 1, "length.step", "lie in (0, 1]", length.step)
    _need(0 <= length.curve_max <= 1, "length.curve_max", "lie in [0, 1]", length.curve_max)
    _need(0 < length.curve_step <= 1, "length.curve_step", "lie in (0, 1]", length.curve_step)
    for section, stop, m in (("length", length.stop, length.m), ("vote", vote.stop, vote.m)):
        _need(stop in STOPS, f"{section}.stop", f"be one of {', '.join(STOPS)}", stop)
        _need(m >= 1, f"{section}.m", "be at least 1", m)
    _need(0 <= length.tolerance <= 1, "length.tolerance", "lie in [0, 1]", length.tolerance)
    _need(vote.histogram_m >= 1, "vote.histogram_m", "be at least 1", vote.histogram_m)
    for name in ("alpha", "adversarial_alpha"):
        _need(0 < getattr(vote, name) < 1, f"vote.{name}", "lie in (0, 1)", getattr(vote, name))
    _need(vote.clip in ("intersect", "clamp"), "vote.clip", "be intersect or clamp", vote.clip)
    _need(bool(vote.seeds), "vote.seeds", "name at least one seed", vote.seeds)
    _need(len(set(vote.seeds)) == len(vote.seeds), "vote.seeds", "not repeat a seed", vote.seeds)
    _need(vote.chunk >= 1, "vote.chunk", "be at least 1", vote.chunk)
    _need(
        vote.dtype in ("auto", "", "float32", "bfloat16", "float16"),
        "vote.dtype",
        "be auto, empty, float32, bfloat16 or float16",
        vote.dtype,
    )
    _need(protocol.examples >= 1, "protocol.examples", "be at least 1", protocol.examples)
    _need(protocol.targets >= 0, "protocol.targets", "not be negative", protocol.targets)
    _need(protocol.block >= 1, "protocol.block", "be at least 1", protocol.block)
    _need(0 <= protocol.margin < 1, "protocol.margin", "lie in [0, 1)", protocol.margin)
    _need(config.checks.examples >= 0, "checks.examples", "not be negative", config.checks.examples)
    for name in attacks.names:
        _need(
            name in (*TARGETED, "DeepFool"),
            "attacks.names",
            f"be among {', '.join(TARGETED)}, DeepFool",
            name,
        )
    others = f"or LIBRARY:ATTACK of {', '.join(LIBRARIES)}"
    for name in attacks.vote:
        known_attack = name in ON_VOTES or _of_a_library(name)
        _need(known_attack, "attacks.vote", f"be among {', '.join(ON_VOTES)}, {others}", name)
    ours = (*TARGETED, "DeepFool", *ON_VOTES)
    for name in attacks.settings:
        known_attack = name in ours or _of_a_library(name)
        _need(known_attack, "attacks.settings", f"be of {', '.join(ours)}, {others}", name)
    for name in attacks.adapted:
        _need(name in ADAPTABLE, "attacks.adapted", f"be among {', '.join(ADAPTABLE)}", name)
    for name in attacks.confidence_models:
        _need(
            name in (*TRAINED, "user"),
            "attacks.confidence_models",
            f"be among {', '.join(TRAINED)}, user",
            name,
        )
    for value in attacks.confidences:
        _need(value >= 0, "attacks.confidences", "not be negative", value)
    for value in attacks.alphas:
        _need(value >= 0, "attacks.alphas", "not be negative", value)
    _need(attacks.budget in ("paper", "fast"), "attacks.budget", "be paper or fast", attacks.budget)
    _need(certify.examples >= 1, "certify.examples", "be at least 1", certify.examples)
    _need(certify.n0 >= 1, "certify.n0", "be at least 1", certify.n0)
    _need(certify.n >= certify.n0, "certify.n", f"be at least certify.n0 = {certify.n0}", certify.n)
    _need(0 < certify.alpha < 1, "certify.alpha", "lie in (0, 1)", certify.alpha)
    _need(certify.gain >= 0, "certify.gain", "not be negative", certify.gain)
    for value in certify.radii:
        _need(value >= 0, "certify.radii", "not be negative", value)
    compare = config.compare
    _need(compare.validation >= 0, "compare.validation", "not be negative", compare.validation)
    _need(compare.examples >= 1, "compare.examples", "be at least 1", compare.examples)
    _need(len(set(compare.votes)) == len(compare.votes), "compare.votes", "not repeat a vote", compare.votes)
