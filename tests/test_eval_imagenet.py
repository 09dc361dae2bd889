"""Networks and images of today's size: a folder of photographs at 224×224, ResNet-18, from command to report."""

import json
from pathlib import Path

import photographs
import pytest
import torch
import torchvision

from rcfast.data import Images
from rcfast.eval import cli

SMALL = [
    "data.validation=6",
    "data.test=12",
    "protocol.examples=2",
    "protocol.targets=1",
    "vote.seeds=[0,1]",
    "vote.m=3",
    "vote.chunk=4",  # ways of running are told apart on so many rows
    "vote.histogram_m=3",
    "length.r=0.02",
    "length.m=3",
    "length.r_max=0.02",
    "length.curve_max=0",
    "checks.examples=1",
    "attacks.settings.T-RegionCW={steps=2, points=2, votes=3}",
    'attacks.names=["T-FGSM","DeepFool"]',
    "attacks.settings.T-FGSM.steps=2",
    "attacks.settings.DeepFool.iterations=2",
    "attacks.settings.DeepFool.candidates=2",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 crops of real photographs of four kinds."""
    root = tmp_path_factory.mktemp("photos") / "photos"
    photographs.write(root / "train", 15, side=240, suffix=".jpg")
    photographs.write(root / "val", 15, side=240, suffix=".jpg", seed=500)
    return root


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> dict:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delattr(Images, "to")  # nobody asks for all of them
    settings = [word for setting in SMALL for word in ("--set", setting)]
    command = ["--preset", "imagenet-first-look", *words, *settings, "--out", "out", "--quiet"]
    assert cli.main(command) == cli.DONE
    assert (tmp_path / "out" / "report.html").is_file()
    return json.loads((tmp_path / "out" / "results.json").read_text())


@pytest.mark.slow
def test_an_untrained_resnet18_is_looked_at(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(num_classes=4).state_dict(), tmp_path / "untrained.pth")
    words = ["--dataset", str(folder), "--model", "torchvision:resnet18", "--weights", "untrained.pth"]
    found = run(tmp_path, monkeypatch, *words)
    assert found["dataset"]["shape"] == [3, 224, 224]
    assert found["dataset"]["sizes"] == {"train": 54, "validation": 6, "test": 12}
    assert {row["defence"] for row in found["accuracy"]} == {"point", "region"}
    assert {row["attack"] for row in found["attacks"]} >= {"T-FGSM", "U-FGSM", "DeepFool"}


@pytest.mark.slow
def test_a_resnet18_with_weights_of_a_file_that_knows_more_classes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=7)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "mine.pth")
    words = ["--dataset", str(folder), "--model", "torchvision:resnet18", "--weights", "mine.pth"]
    found = run(tmp_path, monkeypatch, *words, "--only", "table2,table3")
    assert found["dataset"]["num_classes"] == 7


@pytest.mark.slow
def test_a_resnet18_is_trained_a_little(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--dataset", str(folder), "--model", "torchvision:resnet18", "--set", "model.train=true"]
    words += [
        "--set",
        "train.point.epochs=1",
        "--set",
        "train.point.batch_size=16",
        "--set",
        "train.point.lr=0.02",
    ]
    found = run(tmp_path, monkeypatch, *words, "--only", "table2,table3")
    assert {row["defence"]: row["n"] for row in found["accuracy"]} == {"point": 12, "region": 12}
    times = json.loads((tmp_path / "out" / "timings.json").read_text())
    assert "train" in {stage["name"] for stage in times}
