"""Outputs are known by their interface: one from outside the package is planned, measured, written and shown."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from rcfast.eval import cli, outputs
from rcfast.eval.evaluation import merge, plan, prepare
from rcfast.eval.run.config import ConfigError
from rcfast.eval.run.context import Context
from rcfast.eval.run.progress import Progress
from rcfast.eval.run.settings import build
from rcfast.eval.run.store import Store

SETTINGS = ["train.point.epochs=1", "protocol.examples=3", 'defences=["point"]']
TOY = ["--outputs", "toy_output", "--only", "light"]


def arguments(out: Path, *more: str) -> list[str]:
    return ["--out", str(out), *(item for text in SETTINGS for item in ("--set", text)), *more]


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    for toy in ("toy_output", "toy_attack"):
        monkeypatch.delitem(sys.modules, toy, raising=False)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(outputs, "_registered", dict(outputs._registered))


def test_an_output_from_outside_is_planned_measured_written_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main([*arguments(out), *TOY, "--dry-run"]) == cli.DONE
    said = capsys.readouterr().out
    assert "outputs: light\n" in said
    assert re.search(r"^light +1 +0 +1 +0\.5 s$", said, re.MULTILINE)
    assert not out.exists()

    assert cli.main([*arguments(out), *TOY]) == cli.DONE
    said = "".join(capsys.readouterr())
    assert "light: 1 parts" in said
    assert "\nLight was measured\n" in said
    assert "Voting over a region needs light." in said
    results = json.loads((out / "results.json").read_text())
    assert results["outputs"] == ["light"]
    assert len(results["light"]) == 3
    assert {path.name for path in (out / "tables").iterdir()} == {
        f"light.{ending}" for ending in ("csv", "json", "md", "tex")
    }
    rows = json.loads((out / "tables" / "light.json").read_text())["rows"]
    assert [row["light"] for row in rows] == pytest.approx(results["light"], abs=1e-6)
    page = (out / "report.html").read_text()
    for shown in (
        '<article id="light"><h3>How light the examples are</h3>',
        "A white image has 1.",
        "of glass",
    ):
        assert shown in page
    assert "Light was measured &lt;too&gt;." in page

    assert cli.main([*arguments(out), *TOY, "--dry-run"]) == cli.DONE
    assert re.search(r"^light +1 +1 +0 +nothing$", capsys.readouterr().out, re.MULTILINE)
    stages = json.loads((out / "timings.json").read_text())
    assert [stage["name"] for stage in stages] == ["train", "light", "tabulate", "draw"]


def test_a_module_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*arguments(tmp_path), "--outputs", "no_such_module"]) == cli.BAD_ARGUMENTS
    assert "--outputs: cannot import no_such_module" in capsys.readouterr().err
    assert cli.main([*arguments(tmp_path), "--only", "no_such_output"]) == cli.BAD_ARGUMENTS
    assert "table2, table3" in capsys.readouterr().err


class Named(outputs.Output):
    title = "A name"

    def __init__(self, name: str) -> None:
        self.name = name  # type: ignore[misc]

    def build(self, results: Any, folder: Path) -> None:
        return None


def test_a_name_is_a_word_and_taken_once() -> None:
    for name in ("table4", "", "a/b", "two words"):
        with pytest.raises(ValueError, match=r"name must be a word|already"):
            outputs.register(Named(name))
    first = outputs.register(Named("figure10"))
    assert outputs.get("figure10") is first
    assert outputs.names() == (*outputs.NAMES, "figure10")
    assert first.label == "Figure 10"
    again = outputs.register(Named("figure10"))  # a module that is loaded anew
    assert outputs.get("figure10") is again
    with pytest.raises(ConfigError, match="got 'figure11'"):
        outputs.get("figure11")


def test_every_output_of_the_package_is_one_file_with_everything() -> None:
    folder = Path(outputs.__file__).parent
    for name in outputs.NAMES:
        own = outputs.get(name)
        assert own.name == name
        assert own.title
        assert own.reading
        assert (folder / f"{name}.py").is_file()


def test_no_file_of_the_evaluation_is_a_hall() -> None:
    files = Path(outputs.__file__).parent.parent.rglob("*.*")
    lines = {
        path.name: path.read_text().count("\n") for path in files if path.suffix in (".py", ".css", ".toml")
    }
    assert {name: count for name, count in lines.items() if count > 300} == {}


def test_measurements_are_added_to_each_other() -> None:
    into: dict[str, Any] = {"attacks": [], "grids": {"figure1": {"a": 1}}, "length": {"radii": [0.0]}}
    merge(into, {"attacks": [{"x": 1}, {"x": 2}], "grids": {"figure5": {"a": 2}}})
    merge(into, {"attacks": [{"x": 2}, {"x": 3}], "length": {"radii": [0.0, 0.5]}, "new": [1, 1]})
    assert into == {
        "attacks": [{"x": 1}, {"x": 2}, {"x": 3}],
        "grids": {"figure1": {"a": 1}, "figure5": {"a": 2}},
        "length": {"radii": [0.0, 0.5]},
        "new": [1, 1],
    }


def test_a_unit_is_found_by_its_inputs_alone(tmp_path: Path) -> None:
    assert cli.main([*arguments(tmp_path), *TOY, "--quiet"]) == cli.DONE
    import toy_output  # registered by the run

    def context(*settings: str) -> Context:
        chosen = [outputs.get("light")]
        store = Store(tmp_path, readonly=True)
        ctx = prepare(
            build("quick", settings=[*SETTINGS, *settings]), tmp_path, chosen, store, Progress("quiet")
        )
        ctx.sketch = False
        assert plan(ctx, chosen)[-1] == toy_output.Light()
        return ctx

    assert context().find(toy_output.Light()) is not None
    assert context().find(toy_output.Light(power=2)) is None
    assert context("vote.m=7").find(toy_output.Light()) is not None  # votes do not count for it
    assert context("protocol.examples=2").find(toy_output.Light()) is None


VOTE = [
    'defences=["point","region"]',
    'attacks.names=["DeepFool"]',
    "train.point.epochs=3",
    "protocol.examples=4",
    "protocol.block=3",
    "vote.m=20",
    "length.r=0.1",
    "length.r_max=0",
    "length.m=20",
]


@pytest.mark.parametrize("itself", [pytest.param(False, marks=pytest.mark.slow), True])
def test_an_attack_on_the_vote_from_outside_counts_in_the_worst_case(tmp_path: Path, itself: bool) -> None:
    settings = [item for text in VOTE for item in ("--set", text)]
    only = "worst,curves,optimality,table5" + ",shake" * itself
    argv = ["--out", str(tmp_path), "--quiet", *settings, "--outputs", "toy_attack", "--only", only]
    assert cli.main(argv) == cli.DONE
    results = json.loads((tmp_path / "results.json").read_text())
    worst = {row["defence"]: row for row in results["worst"]}
    assert worst["region"]["attacks"] == 1 + itself
    assert worst["region"]["on_itself"] == ["U-Shake on region"] * itself
    assert worst["point"]["attacks"] == 1, "it was made for the vote and is shown to nobody else"
    assert results["direct"] == {"point": ["DeepFool on point"]} | (
        {"region": ["U-Shake on region"]} if itself else {}
    )
    marked = 'class="untested">not attacked itself'  # in the verdict
    assert (marked in (tmp_path / "report.html").read_text()) == (not itself)
    attacks = {(row["defence"], row["attack"]) for row in results["curves"]}
    assert (("region", "U-Shake") in attacks) == itself
    shaken = [row for row in results["optimality"] if row["network"] == "region"]
    assert [row["attack"] for row in shaken] == ["U-Shake"] * itself
    lines = (tmp_path / "outcomes.csv").read_text().splitlines()
    assert sum(line.startswith("U-Shake,0.0,0.0,region,region,") for line in lines) == 4 * itself
