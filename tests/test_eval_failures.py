"""What goes wrong during a run is one line that says why and exit code 1; our own mistakes keep their traceback."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rcfast.eval import cli
from rcfast.eval.run.attack import NetworkAttack
from rcfast.eval.run.config import ConfigError, StageError
from rcfast.eval.run.unit import explained

MINE = '''
import torch
from torch import nn


class Strange(nn.Module):
    """Labels digits, but answers NaN to all that lies between the sixteen grey levels of the data."""

    def __init__(self, between):
        super().__init__()
        self.between, self.layer = between, nn.Linear(64, 10)

    def forward(self, x):
        logits = self.layer(x.flatten(1))
        off = ((x * 16).frac() != 0).flatten(1).any(1)
        return torch.where(off[:, None], self.between, logits)


def nan():
    torch.manual_seed(0)
    return Strange(torch.nan).eval()


class Hard(nn.Module):
    """Votes instead of logits: no gradient."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        return nn.functional.one_hot(self.layer(x.flatten(1)).argmax(1), 10) * 5.0 - 1


def hard():
    torch.manual_seed(0)
    return Hard().eval()


class Broken:
    name = "broken"

    def label(self, x):
        if len(x) == 64:  # the probe
            return torch.zeros(len(x), dtype=torch.int64)
        raise ValueError("no label\\nfor that")


def broken(model, dataset):
    return Broken()
'''
SMALL = [
    'attacks.names=["T-FGSM"]',
    'defences=["point","region"]',
    "protocol.examples=2",
    "train.point.epochs=1",
    "vote.m=20",
    "vote.seeds=[0]",
    "length.step=0.5",
    "length.m=20",
]
Fail = Callable[..., str]


@pytest.fixture
def fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fail:
    """Run the command, see that it fails as documented, return its line."""
    (tmp_path / "strange_rc.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(*argv: str, settings: list[str]) -> str:
        more = [item for text in [*SMALL, *settings] for item in ("--set", text)]
        assert cli.main(["--quiet", *argv, *more]) == cli.FAILED == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        return lines[0].removeprefix("python -m rcfast.eval: ")

    return run


def test_training_that_diverges(fail: Fail) -> None:
    line = fail("--only", "table3", settings=["train.point.lr=1e30"])
    assert line.startswith("training the point network: the loss became nan in epoch 1")
    assert line.endswith("try less")


def test_a_network_that_answers_nan(fail: Fail) -> None:
    model = ["--model", "strange_rc:nan", "--only", "table3"]
    assert fail(*model, settings=[]).startswith("the search for r: model must not return NaN, got NaN logits")
    line = fail(*model, settings=["length.r=0.2", "length.r_max=0"])
    assert line.startswith("region: test set: model must not return NaN, got NaN logits at")


def test_a_network_that_cannot_be_attacked(fail: Fail) -> None:
    line = fail("--model", "strange_rc:hard", "--only", "table4", settings=["length.r=0.1", "length.r_max=0"])
    assert line.startswith("T-FGSM on point: model must be differentiable")


def test_a_defence_that_fails_says_so_in_one_line(fail: Fail) -> None:
    line = fail("--defence", "strange_rc:broken", "--only", "table3", settings=["length.r_max=0"])
    assert line == "broken: test set: no label for that"


@pytest.mark.parametrize("kind", [FloatingPointError, TypeError, ValueError, torch.OutOfMemoryError])
def test_the_cause_is_kept(kind: type[Exception]) -> None:
    with pytest.raises(StageError, match="the attack: why it failed") as caught, explained("the attack"):
        raise kind("why it\n  failed")
    assert isinstance(caught.value.__cause__, kind)


@pytest.mark.parametrize("kind", [AssertionError, AttributeError, KeyError, RuntimeError, ConfigError])
def test_other_errors_pass(kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught, explained("the attack"):
        raise kind("mistake")
    assert not isinstance(caught.value, StageError)


def test_a_programming_error_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*arguments: object) -> None:
        raise ValueError("a mistake of ours")

    monkeypatch.setattr(NetworkAttack, "compute", mistaken)
    argv = ["--quiet", "--out", str(tmp_path), "--only", "table4"]
    settings = [item for text in [*SMALL, "length.r_max=0"] for item in ("--set", text)]
    with pytest.raises(ValueError, match="a mistake of ours"):
        cli.main([*argv, *settings])
