"""Results for others and from others: what is exported says what was found, what is imported is judged like our own."""

import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rcfast import data
from rcfast.eval import cli
from rcfast.eval.run.imported import Source
from rcfast.eval.run.imported_files import budget_norm, read

SMALL = [
    'attacks.names=["T-FGSM","DeepFool"]',
    'defences=["point","region"]',
    "protocol.examples=6",
    "train.point.epochs=2",
    "vote.m=40",
    "vote.seeds=[0,1]",
    "length.r=0.15",
    "export.linf=0.2",
    "export.l2=1.0",
]


def run(*words: str) -> int:
    return cli.main([*words, *(w for s in SMALL for w in ("--set", s)), "--out", "out", "--quiet"])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("exchange")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert run("--only", "table3,table4,table5", "--export", "robustbench") == cli.DONE
    return root


def document(root: Path, defence: str, threat: str) -> dict[str, Any]:
    return json.loads((root / "out" / "export" / "digits" / threat / f"{defence}.json").read_text())


def test_a_json_for_each_defence_with_robustbench_s_names(exported: Path) -> None:
    fields = {
        *("link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue"),
        *("architecture", "eps", "clean_acc", "reported", "autoattack_acc"),
    }
    results = json.loads((exported / "out" / "results.json").read_text())
    for defence in ("point", "region"):
        for threat, eps in (("Linf", 0.2), ("L2", 1.0)):
            found = document(exported, defence, threat)
            assert fields <= set(found)
            assert float(found["eps"]) == eps
            accuracy = next(row for row in results["accuracy"] if row["defence"] == defence)
            seeds = accuracy["per_seed"] or [accuracy["correct"]]
            assert float(found["clean_acc"]) == pytest.approx(100 * np.mean(seeds) / accuracy["n"], abs=0.01)
            assert 0 <= float(found["robust_acc"]) <= 100
    region = document(exported, "region", "Linf")
    assert region["vote"]["m"] == region["number_forward_passes"] == 40
    assert region["vote"]["seeds"] == [0, 1]
    assert region["vote"]["r"] == 0.15


def test_inputs_are_known_by_their_sha256(exported: Path) -> None:
    test = data.load("digits").test
    for entry in document(exported, "point", "L2")["examples"]:
        x = test.x[entry["index"]].numpy()
        assert entry["sha256"] == hashlib.sha256(x.tobytes()).hexdigest()
        assert entry["label"] == int(test.y[entry["index"]])
        assert {one["attack"] for one in entry["attacks"]} == {"T-FGSM on point", "DeepFool on point"}


def test_robust_accuracy_is_what_no_attack_breaks(exported: Path) -> None:
    for threat in ("Linf", "L2"):
        found = document(exported, "point", threat)
        broken = [max(one["broken"] for one in entry["attacks"]) for entry in found["examples"]]
        assert float(found["robust_acc"]) == pytest.approx(100 * (1 - np.mean(broken)), abs=0.01)
        for entry in found["examples"]:
            for one in entry["attacks"]:
                assert one["noise"] is None or one["noise"] <= float(found["eps"]) * 1.0001


def test_images_are_those_of_8_bits(exported: Path) -> None:
    images = np.load(exported / "out" / "export" / "adversarial.npz")
    assert set(images.files) == {"T-FGSM on point", "DeepFool on point"}
    assert images["T-FGSM on point"].dtype == np.uint8
    assert images["T-FGSM on point"].shape == (6, 9, 1, 8, 8)


# ---- from others


def peer(root: Path, eps: float = 0.2) -> dict[str, torch.Tensor]:
    """What another library might have made of the exported examples: noise of one size, brighter or darker."""
    clean = np.load(root / "out" / "export" / "examples.npz")
    x = torch.from_numpy(clean["x"])
    sign = torch.where(torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.5, -1.0, 1.0)
    adversarial = (x + eps * sign).clamp(0, 1)
    return {
        "x": x,
        "adversarial": adversarial,
        "y": torch.from_numpy(clean["y"]),
        "index": torch.from_numpy(clean["index"]),
    }


def imported(root: Path, monkeypatch: pytest.MonkeyPatch, *files: str) -> list[dict[str, Any]]:
    monkeypatch.chdir(root)
    words = [word for file in files for word in ("--import", file)]
    assert run("--only", "table3,imported,worst", *words) == cli.DONE
    results = json.loads((root / "out" / "results.json").read_text())
    return [row for row in results["attacks"] if row["group"] == "imported"]


def test_others_examples_are_rows_of_a_table(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = peer(exported)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    np.savez(
        exported / "ours.npz",
        adversarial=made["adversarial"][order].numpy(),
        index=made["index"][order].numpy(),
        labels=made["y"][order].numpy(),
    )
    torch.save(
        {
            "adv_inputs": made["adversarial"][order],
            "labels": made["y"][order],
            "clean_inputs": made["x"][order],
        },
        exported / "torchattacks.pt",
    )
    test = data.load("digits").test
    whole = test.x.clone()
    whole[made["index"]] = made["adversarial"]
    torch.save({"adv_complete": whole}, exported / "autoattack.pth")
    torch.save((whole, test.y), exported / "pair.pt")
    rows = imported(
        exported,
        monkeypatch,
        "ours.npz:Linf",
        "torchattacks.pt",
        "autoattack.pth:Linf",
        "pair.pt@region:Linf",
    )
    point = [row for row in rows if row["defence"] == "point" and row["reading"] == "unseen"]
    assert [row["attack"] for row in point] == ["ours", "torchattacks", "autoattack"]
    assert (
        len({(row["success"], row["noise_mean"], row["norm"]) for row in point}) == 1
    )  # the same, four ways
    assert {row["attack"] for row in rows if row["defence"] == "region"} == {
        "ours",
        "torchattacks",
        "autoattack",
        "pair",
    }
    assert (exported / "out" / "tables" / "imported.csv").is_file()
    shown = (exported / "out" / "report.html").read_text()
    assert "Adversarial examples made by others" in shown


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda made: {"adversarial": made["adversarial"][:3], "index": made["index"][:3]},
            "lacks 3 of the 6 attacked",
        ),
        (
            lambda made: {"adversarial": made["adversarial"] * 2 - 1},
            r"images must be 8-bit, or lie in \[0, 1\]",
        ),
        (
            lambda made: {"adversarial": made["adversarial"][..., :7], "index": made["index"]},
            r"images are \[1, 8, 7\]",
        ),
        (
            lambda made: {**made, "x": None, "labels": (made["y"] + 1) % 10},
            "its labels are not those of the test set",
        ),
        (
            lambda made: {"adversarial": made["adversarial"].roll(1, 0), "index": made["index"]},
            r"100% of its images are nearer to other test examples",
        ),
        (
            lambda made: {"adversarial": made["adversarial"][:2], "x": made["x"]},
            "6 clean images for 2 adversarial ones",
        ),
        (lambda made: {"a": made["x"], "b": made["x"]}, "no adversarial images .* among a, b"),
    ],
)
def test_files_that_are_refused(
    exported: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil: Any,
    message: str,
) -> None:
    monkeypatch.chdir(exported)
    content = {name: value for name, value in spoil(peer(exported)).items() if value is not None}
    torch.save(content, exported / "bad.pt")
    assert run("--only", "imported", "--import", "bad.pt") == cli.BAD_ARGUMENTS
    said = capsys.readouterr().err
    assert "--import bad.pt" in said
    assert re.search(message, said), said


def test_files_that_are_no_files(exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(exported)
    assert run("--only", "imported", "--import", "nowhere.npz") == cli.BAD_ARGUMENTS
    assert "--import nowhere.npz: no such file" in capsys.readouterr().err
    (exported / "text.npz").write_text("hello")
    assert run("--only", "imported", "--import", "text.npz") == cli.BAD_ARGUMENTS
    assert "--import text.npz: cannot be read without running code" in capsys.readouterr().err


def test_checks_of_a_run_with_examples_of_others(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(exported)
    made = peer(exported)
    np.savez("theirs.npz", adversarial=made["adversarial"].numpy(), index=made["index"].numpy())
    words = ("--set", "checks.examples=0", "--import", "theirs.npz@region:Linf")
    assert run("--only", "table3,imported,checks", *words) == cli.DONE
    shown = (exported / "out" / "report.html").read_text()
    assert "here by transfer" not in shown  # the only column of such a mark is theirs
    assert "what was made against the vote itself" in shown


def test_files_of_one_name_are_told_apart(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = peer(exported)
    for folder, eps in (("far", 0.3), ("near", 0.001)):
        (exported / folder).mkdir()
        np.savez(
            exported / folder / "adv.npz",
            adversarial=peer(exported, eps)["adversarial"].numpy(),
            index=made["index"].numpy(),
        )
    rows = imported(exported, monkeypatch, "far/adv.npz:Linf", "near/adv.npz:Linf")
    rates = {row["attack"]: row["success"] for row in rows if row["defence"] == "point"}
    assert rates["far/adv"] > rates["near/adv"]
    worst = json.loads((exported / "out" / "results.json").read_text())["worst"]
    assert {row["defence"]: row["attacks"] for row in worst} == {"point": 2, "region": 2}
    rows = imported(exported, monkeypatch, "far/adv.npz:Linf", "far/adv.npz@region:Linf")
    assert {row["attack"] for row in rows} == {"far/adv@point", "far/adv@region"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("ours.npz@regoin",), "--import ours.npz@regoin: the run has point, region"),
        (("ours.npz@user",), "--import ours.npz@user: the run has point, region"),
        (("ours.npz", "ours.npz:L2"), "--import ours.npz: given twice"),
    ],
)
def test_imports_that_mean_nothing(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, files: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(exported)
    made = peer(exported)
    np.savez("ours.npz", adversarial=made["adversarial"].numpy(), index=made["index"].numpy())
    words = [word for file in files for word in ("--import", file)]
    assert run("--only", "imported", *words) == cli.BAD_ARGUMENTS
    assert message in capsys.readouterr().err


def test_the_user_s_defence_as_user(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (exported / "mine.py").write_text(
        "class Mine:\n    name = 'my-own'\n    def __init__(self, model):\n        self.model = model\n"
        "    def label(self, x):\n        return self.model(x).argmax(1)\n"
        "def make(model, dataset):\n    return Mine(model)\n"
    )
    monkeypatch.syspath_prepend(str(exported))
    monkeypatch.chdir(exported)
    made = peer(exported)
    np.savez("theirs.npz", adversarial=made["adversarial"].numpy(), index=made["index"].numpy())
    words = ("--defence", "mine:make", "--import", "theirs.npz@user:Linf")
    assert run("--only", "table3,imported", *words) == cli.DONE
    rows = json.loads((exported / "out" / "results.json").read_text())["attacks"]
    assert {row["defence"] for row in rows if row["group"] == "imported"} == {"my-own"}


def test_whose_examples_and_which_norm() -> None:
    assert Source.parse("a/b.npz") == Source(Path("a/b.npz"), "point", None)
    assert Source.parse("b.pt@region:Linf") == Source(Path("b.pt"), "region", float("inf"))
    assert Source.parse("b.pt:L2").told == 2
    one = torch.rand(20, 3, 4, 4) - 0.5
    assert budget_norm(0.1 * one.sign()) == float("inf")
    assert budget_norm(one / one.flatten(1).norm(dim=1)[:, None, None, None]) == 2


def test_8_bit_images_are_read(tmp_path: Path) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(1, 3, 4, 4)
    np.savez(tmp_path / "a.npz", x_adv=pixels)
    assert torch.equal(read(tmp_path / "a.npz").images, torch.from_numpy(pixels) / 255)


# ---- the docs

DOCS = Path(__file__).resolve().parent.parent / "docs" / "exchange.md"


def test_the_commands_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = DOCS.read_text()
    export, take = (
        shlex.split(command) for command in re.findall(r"```sh\npython -m rcfast.eval (.*?)\n```", text)
    )
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    settings = ["--quiet", *(w for s in SMALL if "export" not in s for w in ("--set", s))]
    assert cli.main([*export, *settings, "--only", "table3,table5"]) == cli.DONE
    exec(compile(block, "docs", "exec"), {})
    made = np.load("theirs.npz")
    test = data.load("digits").test
    whole = test.x.clone()
    whole[made["index"]] = torch.from_numpy(made["adversarial"])
    torch.save({"adv_complete": whole}, "autoattack.pth")
    np.savez("onvote.npz", **made)
    assert cli.main([*take, *settings, "--only", "table3,imported"]) == cli.DONE
    rows = json.loads(Path("rcfast-report/results.json").read_text())["attacks"]
    attacks = {row["attack"] for row in rows if row["group"] == "imported"}
    assert attacks == {"theirs", "autoattack", "onvote"}
