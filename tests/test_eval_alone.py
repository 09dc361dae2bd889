"""Outputs that are asked for alone, or of runs that lack what they usually show: no traceback, and nothing untrue."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rcfast.eval import cli, outputs
from rcfast.eval.outputs import NAMES
from rcfast.eval.run import examples

TINY = [
    "protocol.examples=3",
    "protocol.targets=2",
    "protocol.block=3",  # all examples in one block: an image grid asks for whole attacks
    "train.point.epochs=2",
    "train.adversarial.epochs=1",
    "train.distillation.epochs=1",
    "vote.m=20",
    "vote.histogram_m=20",
    "vote.seeds=[0,1]",
    "length.r=0.1",
    "length.curve_max=0",
    "checks.examples=1",
    "attacks.confidences=[0.0,5.0]",
    'attacks.confidence_models=["adversarial"]',
    "attacks.alphas=[0.5]",
    "attacks.settings.T-CW-L2={searches=2, iterations=20}",
    "attacks.settings.T-CW-L0={iterations=10, c_max=1.0}",
    "attacks.settings.T-CW-Linf={iterations=10, c_max=1.0}",
    "attacks.settings.T-FGSM={steps=16, refine=2}",
    "attacks.settings.T-IGSM={refine=2, iterations=5, max_eps=0.25}",
    "attacks.confidence_settings={searches=2, iterations=20}",
    "attacks.settings.T-RegionCW={steps=5, votes=20}",
    "certify.examples=2",
    "certify.n0=20",
    "certify.n=100",
    'certify.regions=["cube:0.1"]',
]
TWO = ('defences=["point","region"]',)


def run(folder: Path, *words: str, settings: tuple[str, ...] = ()) -> dict[str, Any]:
    told = [word for setting in (*TINY, *settings) for word in ("--set", setting)]
    assert cli.main([*told, *words, "--quiet", "--out", str(folder)]) == cli.DONE
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, in which the tests go on."""
    return tmp_path_factory.mktemp("alone") / "out"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_each_output_by_itself(there: Path, name: str) -> None:
    run(there, "--only", name)
    assert name != "curves" or (there / "figures" / "curves.csv").is_file()


@pytest.mark.slow
def test_a_figure_without_an_example_of_its_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "grid_examples", lambda *args, **options: np.full(10, -1))
    found = run(tmp_path, "--only", "figure1,figure2", settings=TWO)
    assert "histograms" not in found
    assert not found["grids"]["figure1"]["all_tried"]
    assert "figure2" not in run(tmp_path, "--only", "figure2", settings=('attacks.names=["T-FGSM"]',))


@pytest.mark.slow
def test_an_image_grid_tells_failures_from_what_was_not_tried(there: Path) -> None:
    found = run(there, "--only", "figure1")
    with np.load(there / "grid-figure1.npz") as grid:
        shown, tried = grid["shown"], grid["tried"]
    assert not (shown & ~tried).any()
    assert tried.sum() <= 10 * 3  # itself and two targets
    assert not found["grids"]["figure1"]["all_tried"]
    assert "blank was not tried" in outputs.get("figure1").read(found)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["CW-L2", "bogus:Attack"])
def test_an_unknown_attack_has_no_settings(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "--set",
        f"attacks.settings.{name}={{iterations=5}}",
        "--out",
        str(tmp_path),
    ]
    assert cli.main(command) == cli.BAD_ARGUMENTS
    said = capsys.readouterr().err
    assert "attacks.settings must be of T-JSMA, " in said
    assert f"got '{name}'" in said


@pytest.mark.slow
def test_the_times_of_the_network_s_noise_with_one_target(tmp_path: Path) -> None:
    longer = "attacks.settings.T-RegionCW={steps=60, votes=200}"
    found = run(tmp_path, "--only", "vote_attacks", settings=(*TWO, "protocol.targets=1", longer))
    (own,) = (row for row in found["vote_attacks"] if row["kind"] == "adaptive")
    assert own["ratio"] > 0


@pytest.mark.slow
def test_passes_within_the_budget_are_told(there: Path) -> None:
    rows = run(there, "--only", "table4,optimality")["optimality"]
    assert {row["budget"] for row in rows} == {2000}  # two targets of 1,000
    few = run(there, "--only", "table4,optimality", settings=("protocol.targets=3",))["optimality"]
    assert {row["budget"] for row in few} == {1500}  # three of 500


@pytest.mark.slow
def test_an_example_that_is_wrong_without_noise_is_not_robust(tmp_path: Path) -> None:
    """Where each attack needs more than the budget."""
    settings = (
        *(*TWO, 'attacks.names=["T-CW-L2"]', "attacks.vote=[]", "attacks.confidences=[]"),
        *("attacks.alphas=[]", "attacks.adapted=[]", "length.r=0.9", "vote.m=3", "protocol.examples=12"),
        *("export.l2=1e-9", "export.linf=1e-9"),
    )
    found = run(tmp_path, "--only", "table3,table4", "--export", "robustbench", settings=settings)
    region = {row["threat"]: row for row in found["export"] if row["name"] == "region"}
    row = next(r for r in found["attacks"] if r["defence"] == "region" and r["reading"] == "unseen")
    assert row["already"] > 0  # among the chosen
    assert float(region["L2"]["robust_acc"]) < 100
    point = next(row for row in found["export"] if row["name"] == "point" and row["threat"] == "L2")
    assert float(point["robust_acc"]) == 100
    bare = run(
        tmp_path, "--only", "table3", "--export", "robustbench", settings=(*settings, "attacks.names=[]")
    )
    assert {row["robust_acc"] for row in bare["export"]} == {None}
