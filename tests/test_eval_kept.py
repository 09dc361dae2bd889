"""A run that was finished before: its parts are found again, and give the same tables and figures byte for byte."""

import difflib
import json
import math
import re
from pathlib import Path
from unittest import mock

import kept_run
import pytest
from kept_run import configured, given, unpack, without_pictures

from rcfast.eval import evaluation
from rcfast.eval.run import loop
from rcfast.eval.run.context import Context
from rcfast.eval.run.store import Part, Store
from rcfast.eval.run.unit import Unit

NUMBER = re.compile(r"-?\d+\.\d+(?:e[-+]\d+)?|-?\d+e[-+]\d+")
PAPER = [
    *(f"tables/table{i}.csv" for i in range(2, 7)),
    *(f"figures/figure{i}.csv" for i in (1, 2, *range(4, 10))),
]


def alike(old: str, new: str) -> bool:
    """The same bytes, but for the last digits of numbers: those of a mean or a quantile are the libraries'."""
    if old == new:
        return True
    if NUMBER.sub("#", old) != NUMBER.sub("#", new):
        return False
    pairs = zip(NUMBER.findall(old), NUMBER.findall(new), strict=True)
    return all(math.isclose(float(a), float(b), rel_tol=1e-9, abs_tol=1e-12) for a, b in pairs)


def change(old: str, new: str) -> str:
    return "\n".join(list(difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0))[:12])


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder with the kept store, and what its reader was given."""
    out = tmp_path_factory.mktemp("kept")
    return out, unpack(out)


def test_keys_are_what_they_were(kept: tuple[Path, dict[str, str]]) -> None:
    """The name of a part follows from what was hashed into it, as the JSON beside it says."""
    store, sidecars = Store(kept[0], readonly=True), sorted(kept[0].glob("store/*/*.json"))
    assert len(sidecars) > 150
    for path in sidecars:
        assert store.key(path.parent.name, json.loads(path.read_text())["inputs"]) == path.stem


def test_a_kept_run_is_found_and_told_as_before(kept: tuple[Path, dict[str, str]]) -> None:
    out, before = kept

    def missing(ctx: Context, unit: Unit) -> Part:
        raise AssertionError(
            f"the kept part of `{unit}` ({unit.kind}) is not found, so that every store of a user would be made "
            f"anew. Where that is meant: python tests/kept_run.py. Inputs now: {unit.inputs(ctx)}"
        )

    with configured() as config, mock.patch.object(loop, "finish", missing), without_pictures():
        evaluation.evaluate(config, out)
    now = given(out)
    assert set(now) == set(before)
    assert set(PAPER) <= set(now)
    changed = {name: change(before[name], now[name]) for name in now if not alike(before[name], now[name])}
    assert not changed, "\n".join(f"{name}:\n{lines}" for name, lines in changed.items())


def test_the_comparison_sees_a_digit_and_a_word() -> None:
    assert alike("a,0.12345678901,nan", "a,0.12345678902,nan")
    for other in (
        "a,0.12345679,nan",
        "b,0.12345678901,nan",
        "a,0.12345678901,1",
        "a,0.12345678901",
        "a,1,nan",
    ):
        assert not alike("a,0.12345678901,nan", other)
    assert not alike("7 of 9", "8 of 9")


def test_the_archive_is_small() -> None:
    assert kept_run.ARCHIVE.stat().st_size < 300_000
