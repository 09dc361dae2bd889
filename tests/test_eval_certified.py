"""Certificates in the evaluation: what is planned, measured, shown and held against the attacks of the run."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rcfast import Cube, RegionClassifier, data
from rcfast.eval import build, evaluate, outputs
from rcfast.eval.evaluation import plan, prepare
from rcfast.eval.outputs import certified
from rcfast.eval.run import certify
from rcfast.eval.run.config import ConfigError, StageError
from rcfast.eval.run.context import Context
from rcfast.eval.run.networks import network
from rcfast.eval.run.progress import Progress
from rcfast.eval.run.store import Store

SETTINGS = [
    "protocol.examples=3",
    "length.r=0.2",
    "vote.m=50",
    "vote.seeds=[0,1]",
    "train.point.epochs=4",
    'attacks.names=["T-FGSM"]',
    "attacks.settings.T-FGSM={steps=8, refine=2}",
    "attacks.settings.T-CW-L2={}",
    'certify.regions=["cube:r", "gaussian:0.2"]',
    "certify.examples=12",
    "certify.n=300",
    "certify.n0=20",
    "certify.gain=0.0",
    "certify.train={epochs=1}",
    "certify.radii=[0.02, 0.1]",
]
WANTED = ("table4", "certified", "radii")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certified") / "out"


@pytest.fixture(scope="module")
def results(folder: Path) -> Any:
    return evaluate(build("certified", settings=SETTINGS), folder, outputs=WANTED)


@pytest.fixture
def context(results: Any, folder: Path) -> Context:
    chosen = [outputs.get(name) for name in WANTED]
    config = build("certified", settings=[*SETTINGS, f"threads={torch.get_num_threads()}"])
    ctx = prepare(config, folder, chosen, Store(folder, readonly=True), Progress("quiet"))
    ctx.sketch = False
    return ctx


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / certified.FILE) as file:
        return list(csv.DictReader(file))


def test_certificates_are_those_of_the_classifier(results: Any, folder: Path, context: Context) -> None:
    """What one would get by hand for the same examples, network and seed."""
    found = [row for row in rows(folder) if (row["region"], row["trained_with_it"]) == ("cube:r", "false")]
    assert len(found) == 12
    test = data.load("digits").test
    index = torch.tensor([int(row["example"]) for row in found])
    voter = network(context, "point").voter(context.config.vote.dtype, Cube(0.2))
    proven = RegionClassifier(voter, Cube(0.2), chunk=1024).certify(test.x[index], n=300, n0=20)
    assert [int(row["label"]) for row in found] == proven.label.tolist()
    assert [float(row["l1"]) for row in found] == pytest.approx(proven.radius.tolist(), rel=1e-6)
    assert [int(row["true_label"]) for row in found] == test.y[index].tolist()


def test_rates_count_the_lines_of_the_examples(results: Any, folder: Path) -> None:
    assert [(case["spec"], case["noisy"]) for case in results["certified"]] == [
        *[("cube:r", False), ("cube:r", True), ("gaussian:0.2", False), ("gaussian:0.2", True)]
    ]
    for case in results["certified"]:
        own = [
            row
            for row in rows(folder)
            if (row["region"], row["trained_with_it"]) == (case["spec"], str(case["noisy"]).lower())
        ]
        norm = "l2" if case["spec"].startswith("gaussian") else "l1"
        assert case["norm"].lower() == norm
        radius = np.array([float(row[norm]) * (row["label"] == row["true_label"]) for row in own])
        assert case["at_table"] == [int((radius >= at).sum()) for at in (0.02, 0.1)]
        assert case["acr"] == pytest.approx(radius.mean(), rel=1e-6)
        assert case["correct"][0] == (radius > 0).sum()
        assert case["at"][-1] == pytest.approx(radius.max())


def test_table_figure_and_page_show_them(results: Any, folder: Path) -> None:
    table = (folder / "tables" / "certified.md").read_text()
    assert "Gaussian(sigma=0.2, clip=None)" in table
    assert (folder / "figures" / "radii.svg").stat().st_size > 1000
    page = (folder / "report.html").read_text()
    assert "Certified accuracy" in page
    assert f"None of {3 * 9} adversarial examples" in page
    assert results["certified"][0]["checked"] == 27


def test_a_contradiction_ends_the_run(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that claims far too much is refuted by an attack of the run; those that were made are not."""
    certified.refuse_contradictions(context)
    arrays, proven = context.arrays, certified._of_attacked(context)

    def boastful(unit: Any) -> Any:
        found = arrays(unit)
        return (
            found
            if unit != proven
            else {**found, **{n: np.full_like(found[n], 9.0) for n in certified.NORMS}}
        )

    monkeypatch.setattr(context, "arrays", boastful)
    with pytest.raises(
        StageError, match="inside the certified radius of its original whose region has label"
    ):
        certified.refuse_contradictions(context)


def test_only_certificates_attack_nothing(tmp_path: Path) -> None:
    config = build("certified", settings=SETTINGS)
    chosen = [outputs.get("certified")]
    ctx = prepare(config, tmp_path, chosen, Store(tmp_path, readonly=True), Progress("quiet"))
    units = plan(ctx, chosen)
    assert {unit.stage for unit in units} == {"train", "certify"}
    assert sum(isinstance(unit, certify.NoisyNetwork) for unit in units) == 2


def test_nothing_is_certified_unless_asked_for(tmp_path: Path) -> None:
    chosen = [outputs.get("certified"), outputs.get("radii")]
    ctx = prepare(build("quick"), tmp_path, chosen, Store(tmp_path, readonly=True), Progress("quiet"))
    assert plan(ctx, chosen) == []


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('certify.regions=["cone:0.1"]', "certify.regions must be KIND:SIZE"),
        ('certify.regions=["cube:-0.1"]', "certify.regions must be KIND:SIZE"),
        ('certify.regions=["cube"]', "certify.regions must be KIND:SIZE"),
        ('certify.regions=["cube:inf"]', "certify.regions must be KIND:SIZE"),
        ("certify.n=10", "certify.n must be at least certify.n0 = 20, got 10"),
        ("certify.alpha=0.0", "certify.alpha must lie in"),
        ("certify.train={epoch=1}", "certify.train: unknown setting 'epoch'"),
    ],
)
def test_settings_that_cannot_be_used(setting: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(build("certified", settings=[*SETTINGS, setting]), tmp_path / "out", outputs=["certified"])
    assert not (tmp_path / "out" / "store").exists()
