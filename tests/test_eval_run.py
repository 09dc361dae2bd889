"""The command from end to end on digits: all attacks, all outputs; interrupted, resumed, changed, and one's own."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rcfast.eval import cli
from rcfast.eval.outputs import NAMES
from rcfast.eval.run.settings import build

# Everything of the quick preset, with fewer examples, epochs and iterations.
SMALL = [
    "protocol.examples=2",
    "protocol.block=1",
    "vote.m=100",
    "vote.histogram_m=200",
    "length.step=0.05",
    "length.m=50",
    "train.point.epochs=4",
    "train.adversarial.epochs=1",
    "train.adversarial.attack_settings={iterations=2, candidates=2}",
    "train.distillation.epochs=2",
    "attacks.confidences=[0, 20]",
    "attacks.alphas=[0, 1]",
    "attacks.settings.T-FGSM={steps=16, refine=2}",
    "attacks.settings.T-IGSM={refine=2, iterations=5, max_eps=0.25}",
    "attacks.settings.T-CW-L2={searches=2, iterations=10}",
    "attacks.settings.T-CW-L0={iterations=10, c_max=1.0}",
    "attacks.settings.T-CW-Linf={iterations=10, c_max=1.0}",
    "attacks.confidence_settings={searches=2, iterations=10}",
    "attacks.settings.T-RegionCW={steps=15, points=3, votes=100}",
    "checks.examples=2",
]
MINE = '''
import torch
from torch import nn


class Rounded:
    """Labels images after rounding their pixels to five levels."""

    name = "rounded"

    def __init__(self, model):
        self.network = model

    def label(self, x):
        return self.network((x * 4).round() / 4).argmax(1)


def make(model, dataset):
    return Rounded(model)


def whitebox(model, dataset):
    defence = Rounded(model)
    defence.model, defence.name = model, "open"
    return defence


def wrong(model, dataset):
    return object()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
'''


def arguments(out: Path, *more: str, settings: list[str] = SMALL) -> list[str]:
    return ["--out", str(out), *[item for text in settings for item in ("--set", text)], *more]


def shown(out: Path) -> dict[str, bytes]:
    """Return everything a reader is given but the times."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file()
        and path.name not in ("timings.json", "report.html", ".lock")
        and "store" not in path.relative_to(out).parts
    }


def changed(a: dict[str, bytes], b: dict[str, bytes]) -> list[str]:
    """Return the files that are not the same: their names alone, as pytest takes an hour to compare their bytes."""
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


def differing(one: Path, other: Path) -> list[str]:
    return changed(shown(one), shown(other))


def stages(out: Path) -> dict[str, bool]:
    return {stage["name"]: stage["reused"] for stage in json.loads((out / "timings.json").read_text())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One uninterrupted run."""
    out = tmp_path_factory.mktemp("eval") / "whole"
    assert cli.main(arguments(out, "--quiet")) == cli.DONE
    return out


@pytest.fixture(scope="module")
def results(whole: Path) -> dict[str, Any]:
    return json.loads((whole / "results.json").read_text())


@pytest.mark.slow
def test_a_run_leaves_every_file(whole: Path) -> None:
    made = {path.stem for folder in ("tables", "figures") for path in (whole / folder).iterdir()}
    assert made == set(NAMES) - {
        "certified",
        "radii",
        "regions",
        "imported",
        "vote_images_linf",
        "vote_images_l0",
    }  # which the quick preset does not ask for
    for folder, endings in (
        ("tables", ("csv", "json", "md", "tex")),
        ("figures", ("csv", "json", "png", "svg")),
    ):
        for path in (whole / folder).glob("*.csv"):
            for ending in endings:
                assert path.with_suffix(f".{ending}").stat().st_size > 20, path.name
    assert b"</html>" in (whole / "report.html").read_bytes()
    assert set(stages(whole)) == {"train", "attack", "vote", "check", "tabulate", "draw"}
    assert not any(stages(whole).values())


@pytest.mark.slow
def test_results_hold_every_defence_attack_and_reading(results: dict[str, Any]) -> None:
    defences = ["point", "adversarial", "distillation", "region"]
    assert [row["defence"] for row in results["accuracy"]] == defences
    assert {row["n"] for row in results["accuracy"]} == {360}
    rows = results["attacks"]
    for group, names, n in (
        ("targeted", {"T-JSMA", "T-CW-L0", "T-FGSM", "T-IGSM", "T-CW-Linf", "T-CW-L2"}, 18),
        ("untargeted", {"U-JSMA", "U-CW-L0", "U-FGSM", "U-IGSM", "U-CW-Linf", "U-CW-L2", "DeepFool"}, 2),
    ):
        found = {(r["attack"], r["defence"], r["reading"]): r for r in rows if r["group"] == group}
        readings = ("unseen", "defence", "model")
        assert set(found) == {(a, d, r) for a in names for d in defences for r in readings}
        assert {row["n"] for row in found.values()} == {n}
    combined = {row["attack"] for row in rows if row["group"] == "combined"}
    assert combined == {f"{kind}-CA-{norm}" for kind in "TU" for norm in ("L0", "Linf", "L2", "L2-V")}
    assert {row["parameter"] for row in rows if row["group"] == "confidence"} == {0, 20}
    assert {row["attack"] for row in rows if row["group"] == "adapted"} == {
        *("T-CW-L0-A", "T-CW-L2-A", "T-CW-Linf-A")
    }
    assert results["histograms"]["true_label"] == 0
    assert sum(results["histograms"]["benign"]) == 200
    assert results["length"]["radii"][0] == 0


@pytest.mark.slow
def test_rows_agree_with_each_other(results: dict[str, Any]) -> None:
    for row in results["attacks"]:
        assert 0 <= row["success"] <= row["n"]
        assert (row["noise_mean"] is None) == (row["noise_n"] == 0)
        assert row["noise_n"] == row["success"] - (row["already"] if row["reading"] == "unseen" else 0)
        if row["defence"] == "region":
            judging = row["per_seed"] if row["reading"] == "unseen" else row["per_seed"][:1]
            assert row["success"] == sum(judging) / len(judging)
            assert len(row["per_seed"]) == (2 if row["reading"] == "unseen" else 3)
        else:
            assert row["per_seed"] == []
    found = {
        (r["attack"], r["defence"], r["reading"], r["parameter"]): r
        for r in results["attacks"]
        if r["group"] != "confidence"
    }
    for (attack, defence, reading, _), row in found.items():
        if attack.startswith("U-") and reading == "defence":
            # One target that works is enough.
            assert row["success"] * 9 >= found[f"T{attack[1:]}", defence, reading, None]["success"], attack
        if reading == "model":
            assert row["success"] <= found[attack, defence, "defence", row["parameter"]]["success"]


@pytest.mark.slow
def test_a_second_run_reuses_everything_and_changes_nothing(
    whole: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = shown(whole)
    assert cli.main(arguments(whole)) == cli.DONE
    said = "".join(capfd.readouterr())
    warnings = json.loads((whole / "results.json").read_text())["warnings"]
    assert warnings
    assert [said.count(f"warning: {text}\n") for text in warnings] == [1] * len(warnings)
    assert changed(before, shown(whole)) == []
    assert all(stages(whole).values())


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished_and_the_next_run_ends_alike(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "interrupted"
    command = [sys.executable, "-m", "rcfast.eval", *arguments(out)]
    # A shell's background jobs ignore SIGINT, and their children too: here it must count, wherever the tests run.
    running = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    give_up = time.monotonic() + 240
    while not any((out / "store" / "attack").glob("*.json")) and time.monotonic() < give_up:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=120)
    assert running.returncode == cli.INTERRUPTED, said
    assert said.splitlines()[-1] == (
        "interrupted; what is finished is kept, the same command goes on from there"
    )
    assert "Traceback" not in said
    assert cli.main(arguments(out, "--quiet")) == cli.DONE
    assert differing(out, whole) == []


@pytest.mark.slow
def test_a_changed_setting_redoes_what_depends_on_it(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def todo(*changes: str) -> dict[str, int]:
        more = [item for change in changes for item in ("--set", change)]
        assert cli.main(arguments(whole, *more, "--dry-run")) == cli.DONE
        lines = capsys.readouterr().out.splitlines()
        return {name: int(n) for name, n in re.findall(r"^(\w+) +\d+ +\d+ +(\d+) ", "\n".join(lines), re.M)}

    assert todo() == {"train": 0, "attack": 0, "vote": 0, "check": 0, "draw": 0}
    votes = todo("vote.seeds=[0,1,2,3]")
    assert (votes["train"], votes["attack"]) == (0, 0)
    assert votes["vote"] > 0
    fgsm = todo("attacks.settings.T-FGSM.steps=17")
    assert fgsm["train"] == 0
    assert fgsm["attack"] == 6  # two blocks on three networks
    distilled = todo("train.distillation.epochs=5")
    assert distilled["train"] == 1
    assert distilled["attack"] > 0
    assert todo("protocol.examples=1")["attack"] == 0  # the first block is the same


@pytest.mark.slow
def test_only_makes_what_is_asked_for(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "some"
    assert cli.main(arguments(out, "--quiet", "--only", "table2,figure4")) == cli.DONE
    made = {path.stem for path in [*(out / "tables").iterdir(), *(out / "figures").iterdir()]}
    assert made == {"table2", "figure4"}
    assert not (out / "store" / "attack").exists()
    own = json.loads((out / "results.json").read_text())
    assert own["length"] == json.loads((whole / "results.json").read_text())["length"]


@pytest.mark.slow
def test_a_corrupt_part_is_reported_and_made_again(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = shown(whole)
    for stage in ("attack", "vote", "train"):
        path = sorted(p for p in (whole / "store" / stage).iterdir() if p.suffix != ".json")[0]
        path.write_bytes(path.read_bytes()[:-20])
    (whole / "tables" / "table4.md").unlink()
    assert cli.main(arguments(whole)) == cli.DONE
    assert capsys.readouterr().err.count("is corrupt") == 3
    assert changed(before, shown(whole)) == []


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine_rc.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


FAST = [
    *SMALL,
    "train.point.epochs=3",
    "train.distillation.epochs=1",
    'attacks.names=["T-FGSM", "DeepFool"]',
    'defences=["point", "region"]',
]


@pytest.mark.parametrize(("factory", "name"), [("make", "rounded"), ("whitebox", "open")])
def test_a_defence_of_ones_own(mine: Path, factory: str, name: str) -> None:
    more = ["--quiet", "--defence", f"mine_rc:{factory}", "--only", "table3,table4"]
    assert cli.main(arguments(mine / "out", *more, settings=FAST)) == cli.DONE
    found = json.loads((mine / "out" / "results.json").read_text())
    assert found["defences"] == ["point", "region", name]
    assert {row["defence"] for row in found["attacks"]} == {"point", "region", name}
    assert name in (mine / "out" / "tables" / "table4.md").read_text()


def test_a_defence_that_keeps_no_interface_is_refused(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--quiet", "--defence", "mine_rc:wrong", "--only", "table3"]
    assert cli.main(arguments(mine / "out", *more, settings=FAST)) == cli.BAD_ARGUMENTS
    assert "must have a method label(x), got object" in capsys.readouterr().err


def test_a_network_and_data_of_ones_own(mine: Path) -> None:
    generator = np.random.default_rng(0)
    centre = generator.random((3, 8, 8))
    y = generator.integers(0, 3, 400)
    x = np.clip(centre[y] + 0.1 * generator.standard_normal((400, 8, 8)), 0, 1).astype(np.float32)
    np.savez(mine / "blobs.npz", x_train=x[:300], y_train=y[:300], x_test=x[300:], y_test=y[300:])
    own = [*FAST, "model.train=true", "train.point.epochs=40", "protocol.examples=4"]
    more = ["--quiet", "--dataset", "blobs.npz", "--only", "table2,table3,table4"]
    assert cli.main(arguments(mine / "out", *more, "--model", "digits_cnn", settings=own)) == cli.DONE
    found = json.loads((mine / "out" / "results.json").read_text())
    assert found["dataset"]["num_classes"] == 3
    assert found["accuracy"][0]["correct"] >= 95
    # A trained network of one's own, on digits, used as it is and trained anew for the defences.
    more = ["--quiet", "--model", "mine_rc:network", "--only", "table3"]
    settings = [*SMALL, "model.train=true"]
    assert cli.main(arguments(mine / "digits", *more, settings=settings)) == cli.DONE


def test_the_full_disk_leaves_a_run_that_goes_on(
    mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rcfast import files

    written, real = [0], files._write

    def nearly_full(handle: Any, data: bytes) -> None:
        written[0] += 1
        if written[0] == 9:
            raise OSError(28, os.strerror(28))
        real(handle, data)

    out, more = mine / "out", ["--only", "table3,table4"]
    monkeypatch.setattr(files, "_write", nearly_full)
    assert cli.main(arguments(out, *more, settings=FAST)) == cli.FAILED
    assert "no space left" in capsys.readouterr().err
    assert not list(out.rglob(".*.part"))
    monkeypatch.setattr(files, "_write", real)
    assert cli.main(arguments(out, *more, settings=FAST)) == cli.DONE
    assert cli.main(arguments(mine / "whole", *more, settings=FAST)) == cli.DONE
    assert differing(out, mine / "whole") == []


def test_the_quick_preset_is_the_default() -> None:
    made = cli.configuration(cli.parser().parse_args([]))
    assert made == build("quick")
    assert made.data.name == "digits"


DOCS = Path(__file__).parent.parent / "docs" / "evaluation.md"
EXAMPLE = re.compile(r"<!-- example: (\w+) -->\n```python\n(.*?)```", re.S)
COMMAND = re.compile(r"(<!-- run -->\n)?```sh\npython -m rcfast\.eval ?(.*?)\n```", re.S)


@pytest.mark.slow
def test_the_examples_of_the_docs_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = DOCS.read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    examples = dict(EXAMPLE.findall(text))
    assert set(examples) == {"data", "mynet", "mydefence", "python"}
    for name in ("mynet", "mydefence"):
        (tmp_path / f"{name}.py").write_text(examples[name])
    for name in ("data", "python"):
        exec(compile(examples[name], name, "exec"), {})
    assert "'train': 1198" in capsys.readouterr().out
    commands = COMMAND.findall(text)
    assert len(commands) == text.count("python -m rcfast.eval") == 5
    smaller = [item for setting in FAST for item in ("--set", setting)]
    for run, command in commands:
        given = shlex.split(command)
        if run:
            assert cli.main([*given, *smaller, "--quiet"]) == cli.DONE, command
        else:
            cli.configuration(cli.parser().parse_args(given))
    for folder in ("mine-report", "mynet-report", "mydefence-report"):
        assert (tmp_path / folder / "report.html").is_file()
