"""Settings that belong together: what a preset tuned for one choice does not outlive another."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from rcfast import data, hardware
from rcfast.attacks import get
from rcfast.data import Split
from rcfast.eval import cli, outputs
from rcfast.eval.evaluation import prepare
from rcfast.eval.run.attack import Case, make, settings
from rcfast.eval.run.config import TARGETED, ConfigError
from rcfast.eval.run.networks import recipe, training_attack
from rcfast.eval.run.progress import Progress
from rcfast.eval.run.settings import build
from rcfast.eval.run.store import Store
from rcfast.eval.run.voter import precision
from rcfast.regions import Cube
from rcfast.training import Recipe, TrainingResult
from rcfast.training.engine import Run


def test_an_empty_table_replaces_and_any_other_is_merged() -> None:
    assert build("quick").train.distillation["optimizer"] == "adam"
    assert build("quick", settings=["train.distillation={}"]).train.distillation == {}
    assert build("quick", overrides={"train": {"distillation": {}}}).train.distillation == {}
    one = build("quick", settings=["train.distillation={lr=0.5}"]).train.distillation
    assert (one["lr"], one["optimizer"]) == (0.5, "adam")
    # In the order given: emptied first, then filled.
    assert build(
        "quick", settings=["train.distillation={}", "train.distillation.lr=0.5"]
    ).train.distillation == {"lr": 0.5}


def test_options_of_the_command_line_empty_no_table() -> None:
    made = cli.configuration(cli.parser().parse_args(["--seed", "3"]))
    assert made == build("quick", overrides={"seed": 3})


@pytest.mark.parametrize("preset", ["quick", "cpu"])
def test_another_training_attack_drops_the_settings_of_the_presets(preset: str) -> None:
    def adversarial(*settings: str) -> dict:
        return build(preset, settings=[f"train.adversarial.{text}" for text in settings]).train.adversarial

    tuned = adversarial()["attack_settings"]
    assert adversarial("attack=DeepFool")["attack_settings"] == tuned != {}
    other = adversarial("attack=U-FGSM")
    assert "attack_settings" not in other
    assert other["epochs"] == adversarial()["epochs"]
    for order in (("attack=U-FGSM", "attack_settings.steps=8"), ("attack_settings.steps=8", "attack=U-FGSM")):
        assert adversarial(*order)["attack_settings"] == {"steps": 8}
    assert (
        "candidates"
        not in adversarial("attack_settings={}", "attack_settings.iterations=7")["attack_settings"]
    )


TUNED = """
[attacks]
budget = "fast"
settings = { T-CW-L2 = { iterations = 100, c0 = 1.0 } }
confidence_settings = { c0 = 10.0 }
"""


@pytest.mark.parametrize("preset", ["quick", "cpu", "tuned.toml"])
def test_a_budget_means_what_it_says(preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tuned.toml").write_text(TUNED)
    tuned = build(preset).attacks
    assert preset != "tuned.toml" or (tuned.settings and tuned.confidence_settings)
    for budget in ("paper", "fast"):
        config = build(preset, settings=[f"attacks.budget={budget}"])
        assert (config.attacks.settings, config.attacks.confidence_settings) == ({}, {})
        assert config.attacks.names == tuned.names
        for name in (*TARGETED, "DeepFool"):
            assert make(config, Case("point", name)) == get(name, budget=budget)
        assert make(config, Case("point", "T-CW-L2", 20.0)) == get("T-CW-L2", budget=budget, confidence=20.0)
    own = ["attacks.settings.T-FGSM.steps=17", "attacks.budget=paper", "attacks.confidence_settings={c0=2.0}"]
    config = build(preset, settings=own)
    assert config.attacks.settings == {"T-FGSM": {"steps": 17}}
    assert config.attacks.confidence_settings == {"c0": 2.0}


def test_the_training_attack_is_made_with_its_settings_and_refused_if_targeted() -> None:
    settings = {"attack": "U-FGSM", "attack_settings": {"steps": 8}, "epochs": 2}
    assert training_attack(settings) == get("U-FGSM", steps=8)
    assert settings == {"epochs": 2}
    for bad, message in (
        ({"attack": "T-FGSM"}, "attack must be an untargeted attack, got 'T-FGSM'"),
        ({"attack": "U-FGSM", "attack_settings": {"colour": 1}}, "U-FGSM has no hyperparameter 'colour'"),
        ({"attack": ["U-FGSM"]}, "train.adversarial.attack: "),
        ({"attack_settings": 3}, "train.adversarial.attack: "),
    ):
        with pytest.raises(ConfigError, match=message):
            training_attack(bad)


def test_a_targeted_training_attack_ends_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--out", str(tmp_path / "out"), "--set", "train.adversarial.attack=T-FGSM"]
    assert cli.main(argv) == cli.BAD_ARGUMENTS
    assert "must be an untargeted attack, got 'T-FGSM'" in capsys.readouterr().err
    assert not (tmp_path / "out" / "store").exists()


def test_adversarial_training_with_another_attack(tmp_path: Path) -> None:
    digits = data.load("digits")
    few = {"train": digits.train, "test": digits.test}
    arrays = {f"x_{name}": split.x[:80, 0].numpy() for name, split in few.items()}
    arrays |= {f"y_{name}": split.y[:80].numpy() for name, split in few.items()}
    np.savez(tmp_path / "few.npz", **arrays)
    settings = [
        'defences=["point","adversarial"]',
        "train.point.epochs=1",
        "train.adversarial.epochs=1",
        "train.adversarial.attack=U-FGSM",
        "train.adversarial.attack_settings={steps=8, refine=1}",
        "data.validation=10",
    ]
    argv = [
        "--dataset",
        str(tmp_path / "few.npz"),
        "--out",
        str(tmp_path / "out"),
        "--only",
        "table3",
        "--quiet",
    ]
    assert cli.main([*argv, *(item for text in settings for item in ("--set", text))]) == cli.DONE
    said = [json.loads(path.read_text()) for path in (tmp_path / "out" / "store" / "train").glob("*.json")]
    assert {part["inputs"].get("attack") for part in said} == {None, "Untargeted(FGSM(steps=8, refine=1))"}


def test_the_key_of_a_network_holds_the_recipe_it_is_trained_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[Recipe] = []

    def optimise(model: nn.Module, data: Split, run: Run, **more: object) -> TrainingResult:
        used.append(run.recipe)
        return TrainingResult(model, [], 0.0, None)

    for module in ("standard", "adversarial", "distilled"):
        monkeypatch.setattr(f"rcfast.training.{module}.optimise", optimise)
    for distilled in ("{}", "{temperature=25}", "{temperature=25.0, optimizer='sgd'}", "{lr=0.5, epochs=2}"):
        settings = ["train.point.epochs=2", f"train.distillation={distilled}"]
        config = build(
            "paper", overrides={"data": {"name": "digits"}}, settings=["train.distillation={}", *settings]
        )
        ctx = prepare(config, tmp_path, [outputs.get("table3")], Store(tmp_path), Progress("quiet"))
        for name in ("point", "adversarial", "distillation"):
            inputs, train = recipe(ctx, name)
            used.clear()
            train(tmp_path / "checkpoint")
            assert used
            assert all(asdict(own.on(ctx.device)) == inputs["recipe"] for own in used), (name, distilled)


@pytest.mark.parametrize(("flags", "meant"), [("avx2", "float32"), ("avx2 avx512_bf16", "bfloat16")])
def test_keys_hold_the_precision_that_auto_means_here(
    flags: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part made in another precision is another part; one made with the same, named, is found again."""
    monkeypatch.setattr(hardware, "_cpu_flags", lambda: frozenset(flags.split()))
    for limit in hardware._LIMITS:
        monkeypatch.delenv(limit, raising=False)
    usual = ["train.adversarial={attack='U-CW-L2'}"]
    named = [f"train.{n}.precision={meant}" for n in ("point", "adversarial", "distillation")]
    named += [f"vote.dtype={meant}", f"train.adversarial.attack_settings.precision={meant}"]
    named += [f"attacks.settings.T-CW-L2.precision={meant}"]
    found = []
    for more in ([], named):
        config = build("quick", overrides={"device": "cpu"}, settings=usual + more)
        ctx = prepare(config, tmp_path, [outputs.get("table3")], Store(tmp_path), Progress("quiet"))
        like = ctx.dataset.test.x[:1]
        keys: dict[str, Any] = {"vote": precision(ctx.config.vote.dtype, Cube(0.3), like)}
        assert precision(ctx.config.vote.dtype, Cube(0.01), like) == (meant if more else "float32")
        for name in ("point", "adversarial", "distillation"):
            keys[name] = recipe(ctx, name)[0]
            assert keys[name]["recipe"]["precision"] == meant
        keys["attack"] = settings(make(ctx.config, Case("point", "T-CW-L2"), ctx.device))
        assert "auto" not in repr(keys)
        found.append(keys)
    assert found[0] == found[1]
    assert found[0]["vote"] == found[0]["attack"]["precision"] == meant


@pytest.mark.parametrize("value", ["0", "hot", "-1.5"])
def test_a_bad_temperature_ends_before_any_work(
    value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--out", str(tmp_path), "--set", f"train.distillation.temperature={value}"]
    assert cli.main(argv) == cli.BAD_ARGUMENTS
    assert "train.distillation: temperature must be positive and finite, got" in capsys.readouterr().err


def test_the_part_for_the_default_data_set_counts_where_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[dataset.digits.vote]\nm = 7\n")
    assert build(str(tmp_path / "mine.toml")).vote.m == 7
    named = {"data": {"name": "mnist"}}
    assert build(str(tmp_path / "mine.toml"), overrides=named).vote.m == 1000
