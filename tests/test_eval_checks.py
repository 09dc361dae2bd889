"""The checks of a run: made, shown, in the data, and an exit code with --strict; planted failures are caught."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from evaluation_fixture import make

from rcfast.eval import cli, outputs
from rcfast.eval.evaluation import plan, prepare
from rcfast.eval.outputs.checks import failures
from rcfast.eval.report import ending
from rcfast.eval.run.diagnosis import ExaminedNetwork, NoisyLabels, TracedAttack
from rcfast.eval.run.progress import Progress
from rcfast.eval.run.settings import build
from rcfast.eval.run.store import Store

SETTINGS = [
    "train.point.epochs=4",
    "protocol.examples=6",
    'defences=["point"]',
    'attacks.names=["T-JSMA","T-FGSM","DeepFool"]',
    "attacks.settings.T-FGSM={steps=16, refine=2}",
    "checks.examples=4",
]
MASKED = '''
import torch
from torch import nn


class Masked(nn.Module):
    """Rounds, which hides the gradient."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network((x * 8).round() / 8)


class Defence:
    name = "masked"

    def __init__(self, network):
        self.model = Masked(network).eval()

    def label(self, x):
        return self.model(x).argmax(1)


def make(model, dataset):
    return Defence(model)
'''


def arguments(out: Path, *more: str, settings: list[str] = SETTINGS) -> list[str]:
    return ["--out", str(out), "--quiet", *(item for text in settings for item in ("--set", text)), *more]


def records(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / "results.json").read_text())["checks"]


def test_an_honest_run_passes_and_a_masked_defence_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(arguments(out, "--only", "checks", "--strict")) == cli.DONE, capsys.readouterr().err
    honest = records(out)
    assert {r["verdict"] for r in honest} == {"pass", "not applicable"}
    asked = {r["check"] for r in honest}
    assert {"gradients", "silent success", "unbounded attacks", "better than random noise"} <= asked
    assert {"twice the budget", "loss at the end of the budget", "outputs are logits"} <= asked
    # What was seen on the way is kept with the attack, once.
    assert len(list((out / "store" / "traced").glob("*.npz"))) == 1, "DeepFool with twice the iterations"
    page = (out / "report.html").read_text()
    assert '<article id="checks">' in page
    assert "0 fail" in page

    (tmp_path / "masked.py").write_text(MASKED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "masked", raising=False)
    with_masked = arguments(out, "--only", "table2", "--defence", "masked:make", "--strict")
    assert cli.main(with_masked) == cli.UNTRUSTED
    assert "checks failed: gradients" in capsys.readouterr().err
    failed = [r for r in records(out) if r["verdict"] == "fail"]
    assert {r["about"] for r in failed} >= {"masked", "T-FGSM on masked", "DeepFool on masked"}
    assert all("masked" in r["about"] for r in failed)
    assert cli.main(arguments(out, "--only", "table2", "--defence", "masked:make")) == cli.DONE  # not strict


def test_a_vote_that_met_transferred_examples_only_is_not_trusted(tmp_path: Path) -> None:
    settings = [*SETTINGS, 'defences=["point","region"]', "length.r=0.1", "vote.m=50", "checks.examples=0"]
    assert cli.main(arguments(tmp_path, "--only", "checks", "--strict", settings=settings)) == cli.UNTRUSTED
    of_vote = {r["check"]: r for r in records(tmp_path) if r["about"] == "Region-based"}
    assert of_vote["attacked itself"]["verdict"] == "fail"
    assert of_vote["judged by unseen votes"]["verdict"] == "pass"
    of_norms = [r["verdict"] for r in records(tmp_path) if r["check"] == "transfer to a weak target"]
    assert of_norms == ["not applicable"] * 3, "whether the vote is weak, only an attack on itself can tell"
    assert "2 fresh seeds" in of_vote["judged by unseen votes"]["measured"]
    assert of_vote["stable predictions"]["verdict"] == "pass"


@pytest.mark.slow
def test_a_vote_that_only_an_attack_on_itself_breaks_is_caught(tmp_path: Path) -> None:
    """T-CW-L2 stops at the network's boundary and fails against the vote, which RegionCW breaks with little more."""
    settings = [
        *("train.point.epochs=8", 'defences=["point","region"]', "length.r=0.1", "vote.m=100"),
        *("vote.seeds=[0,1]", "protocol.examples=6", "protocol.targets=3", "checks.examples=0"),
        *('attacks.names=["T-CW-L2"]', "attacks.confidences=[0]", 'attacks.vote=["T-RegionCW"]'),
    ]
    more = ("--only", "checks,vote_attacks")
    assert cli.main(arguments(tmp_path / "out", *more, settings=settings)) == cli.DONE
    found = {r["about"]: r for r in records(tmp_path / "out") if r["check"] == "transfer to a weak target"}
    assert list(found) == ["L2 attacks against Region-based"]
    (weak,) = found.values()
    assert weak["verdict"] == "fail", weak
    assert weak["numbers"]["there"] == 1, weak
    assert weak["numbers"]["noise_here"] < 2 * weak["numbers"]["noise_there"]


@pytest.mark.slow
def test_attacks_that_were_made_without_checks_are_observed_anew(tmp_path: Path) -> None:
    settings = [*SETTINGS, 'attacks.names=["T-FGSM","DeepFool"]']
    together, later = tmp_path / "together", tmp_path / "later"
    assert cli.main(arguments(together, "--only", "table4,checks", settings=settings)) == cli.DONE
    assert cli.main(arguments(later, "--only", "table4", settings=settings)) == cli.DONE
    assert not (later / "store" / "traced").exists()
    assert cli.main(arguments(later, "--only", "table4,checks", settings=settings)) == cli.DONE
    # T-FGSM; DeepFool is observed when it is made now, and then with twice the iterations.
    assert len(list((later / "store" / "traced").glob("*.npz"))) == 2
    for one, other in zip(records(together), records(later), strict=True):
        assert [one[name] for name in ("check", "about", "verdict")] == [
            other[name] for name in ("check", "about", "verdict")
        ]


BLIND = """
import torch
from torch import nn


class Round(nn.Module):
    def forward(self, x):
        return (x * 8).round() / 8


def network():
    torch.manual_seed(0)
    return nn.Sequential(Round(), nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
"""


@pytest.mark.slow
def test_a_vote_that_only_attacks_without_gradients_break_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that rounds its inputs: a decision-based attack breaks its vote, gradients do not."""
    pytest.importorskip("foolbox")
    (tmp_path / "blind.py").write_text(BLIND)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    black = "foolbox:LinearSearchBlendedUniformNoiseAttack"
    settings = [
        *("model.train=true", "train.point.epochs=10", 'defences=["point","region"]', "length.r=0.02"),
        *("vote.m=20", "vote.seeds=[0,1]", "protocol.examples=4", "protocol.targets=2", "checks.examples=0"),
        *(
            'attacks.names=["T-FGSM"]',
            f'attacks.vote=["{black}"]',
            f'attacks.settings={{"{black}"={{steps=40, directions=20}}}}',
            "attacks.settings.T-FGSM={steps=8, refine=2}",
        ),
    ]
    out = tmp_path / "out"
    more = ("--only", "checks,vote_attacks", "--model", "blind:network")
    assert cli.main(arguments(out, *more, settings=settings)) == cli.DONE
    of_vote = {r["check"]: r for r in records(out) if r["about"] == "Region-based"}
    found = of_vote["white-box beats black-box"]
    assert found["verdict"] == "fail", found
    assert found["numbers"] == {"white": 0.0, "black": 1.0, "extra": 4}


def test_what_is_planned_for_the_checks(tmp_path: Path) -> None:
    def units(*settings: str) -> list[Any]:
        config = build("quick", settings=[*SETTINGS, *settings])
        chosen = [outputs.get("checks")]
        ctx = prepare(config, tmp_path, chosen, Store(tmp_path, readonly=True), Progress("quiet"))
        return plan(ctx, chosen)

    every = units()
    traced = [unit for unit in every if isinstance(unit, TracedAttack)]
    assert [(unit.case.attack, unit.times) for unit in traced] == [("DeepFool", 2)]
    small = [unit for unit in units("protocol.block=3") if isinstance(unit, TracedAttack)]
    assert len(small) == 4, "blocks with fewer examples than are checked are not observed"
    noisy = [unit for unit in every if isinstance(unit, NoisyLabels)]
    assert [(unit.judge, unit.made.start, unit.stop) for unit in noisy] == [("point", 0, 4)] * 3
    none = units("checks.examples=0")
    assert not [unit for unit in none if isinstance(unit, TracedAttack | NoisyLabels)]
    assert [unit for unit in none if isinstance(unit, ExaminedNetwork)]


def test_failures_are_told_in_the_report_and_at_the_end() -> None:
    results = make()
    assert [r["check"] for r in failures(results)] == ["gradients", "attacked itself"]
    said = ending(results)
    assert "Checks: 2 pass, 2 fail, 1 do not apply" in said
    assert "gradients (Distillation): 93 of 100" in said
    own = outputs.get("checks")
    table = own.build(results, Path())
    assert table is not None
    assert [row[:3] for row in table.rows] == [
        ("gradients", "Distillation", "fail"),
        ("attacked itself", "Region-based", "fail"),
        ("gradients", "2 others", "pass"),
        ("white-box beats black-box", "1 asked", "not applicable"),
    ]
    assert [finding.tone for finding in own.findings(results)] == ["bad", "bad", "plain"]
    results["checks"] = []
    assert own.build(results, Path()) is None
    assert not own.summary(results)
