"""The configuration of a run, and the arguments and exit codes of the command."""

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rcfast.attacks import APGD, ATTACKS, get
from rcfast.eval import cli
from rcfast.eval.run.attack import Case, make, norm_of
from rcfast.eval.run.config import ON_VOTES, PRESETS, ConfigError
from rcfast.eval.run.inputs import find_device
from rcfast.eval.run.settings import build, parse_setting


@pytest.mark.parametrize("name", ["quick", "cpu", "paper"])
def test_presets_are_valid_and_measure_all_four_defences(name: str) -> None:
    config = build(name)
    assert config.defences == ["point", "adversarial", "distillation", "region"]
    assert len(config.attacks.names) == 7
    assert len(config.vote.seeds) >= 3


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid(name: str) -> None:
    assert build(name).preset == name


def test_paper_preset_is_the_published_protocol() -> None:
    config = build("paper")
    assert config.protocol.examples == 100
    assert config.protocol.targets == 0
    assert config.vote.m == 1000
    assert config.vote.stop == config.length.stop == "exact"
    assert config.vote.histogram_m == 10_000
    assert config.attacks.budget == "paper"
    assert config.attacks.settings == {}
    assert config.attacks.confidences == [0, 5, 10, 15, 20, 25, 30, 35, 40]
    assert (config.attacks.grid_confidence, config.attacks.grid_alpha) == (20, 1)
    assert (config.length.r0, config.length.step, config.length.tolerance) == (0, 0.01, 0)
    assert config.train.distillation.get("temperature", 100) == 100


def test_settings_override_the_part_for_the_data_set_which_overrides_the_preset() -> None:
    assert build("paper").length.curve_max == 0.5
    assert build("paper", overrides={"data": {"name": "cifar10"}}).length.curve_max == 0.06
    settings = ["data.name=cifar10", "length.curve_max=0.1"]
    assert build("paper", settings=settings).length.curve_max == 0.1


@pytest.mark.parametrize(("dataset", "step"), [("mnist", 0.1), ("cifar10", 0.01)])
def test_the_quick_preset_takes_a_first_look_at_larger_images(dataset: str, step: float) -> None:
    config = build("quick", overrides={"data": {"name": dataset}})
    assert config.defences == ["point", "region"]
    assert set(config.attacks.names) >= {"T-FGSM", "T-IGSM"}
    assert config.length.step == step
    assert config.vote.dtype == "auto"  # a preset never names a precision: it may be the slower one


def test_a_preset_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('defences = ["point", "region"]\n[protocol]\nexamples = 7\n')
    assert build(str(path)).protocol.examples == 7
    path.write_text("[protocol\n")
    with pytest.raises(ConfigError, match=r"mine\.toml is no TOML"):
        build(str(path))
    with pytest.raises(ConfigError, match="No such file"):
        build(str(tmp_path / "absent.toml"))


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("vote.m=50", ["vote", "m"], 50),
        ("vote.stop=exact", ["vote", "stop"], "exact"),
        ("attacks.alphas=[0, 0.5]", ["attacks", "alphas"], [0, 0.5]),
        ("attacks.settings.T-CW-L2.iterations=9", ["attacks", "settings", "T-CW-L2", "iterations"], 9),
        ("model.train=true", ["model", "train"], True),
    ],
)
def test_settings_are_read_as_toml_or_text(text: str, path: list[str], value: object) -> None:
    assert parse_setting(text) == (path, value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("vote.mm=2", "unknown setting vote.mm; did you mean m"),
        ("votes.m=2", "unknown setting votes; did you mean vote"),
        ("vote.m=0", "vote.m must be at least 1, got 0"),
        ("vote.m=1.5", "vote.m must be of type int, got 1.5"),
        ("vote.m=true", "vote.m must be of type int, got True"),
        ("vote=3", "vote must be a table, got 3"),
        ("vote.seeds=[]", "vote.seeds must name at least one seed"),
        ("vote.seeds=[1,1]", "vote.seeds must not repeat a seed"),
        ("vote.seeds=4", "vote.seeds must be a list, got 4"),
        ("vote.stop=never", "vote.stop must be one of sequential, exact, none, got 'never'"),
        ("vote.clip=wrap", "vote.clip must be intersect or clamp, got 'wrap'"),
        ("vote.alpha=1", r"vote.alpha must lie in \(0, 1\), got 1.0"),
        ("vote.adversarial_alpha=0", r"vote.adversarial_alpha must lie in \(0, 1\), got 0.0"),
        ("length.step=0", r"length.step must lie in \(0, 1\], got 0.0"),
        ("length.r=2", "length.r must be at most 1, got 2.0"),
        ("protocol.examples=0", "protocol.examples must be at least 1, got 0"),
        ("attacks.budget=big", "attacks.budget must be paper or fast, got 'big'"),
        ('attacks.names=["U-FGSM"]', "attacks.names must be among .* got 'U-FGSM'"),
        ("attacks.confidences=[-1]", "attacks.confidences must not be negative, got -1.0"),
        ('defences=["region"]', "defences must contain point"),
        ('defences=["point","magic"]', "defences must be among .* got 'magic'"),
        ("vote.m", "--set takes key=value, got 'vote.m'"),
    ],
)
def test_bad_settings_are_named(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("quick", settings=[setting])


def test_an_attack_at_a_budget_may_be_asked_for() -> None:
    asked = 'attacks.vote=["APGD-L2"]'
    config = build("quick", settings=[asked, "attacks.settings.APGD-L2={eps=1.5, eot=4}"])
    assert make(config, Case("region", "APGD-L2")) == APGD(eps=1.5, norm=2, eot=4)
    with pytest.raises(ConfigError, match=r"attacks.settings.APGD-L2: .* eps, its radius, must be given"):
        make(build("quick", settings=[asked]), Case("region", "APGD-L2"))


@pytest.mark.parametrize("name", [*ATTACKS, *ON_VOTES])
def test_the_norm_of_every_attack_is_its_own(name: str) -> None:
    if not name.endswith("-A"):
        assert norm_of(name) == get(name, **({"eps": 1.0} if "APGD" in name else {})).norm


def test_unknown_preset_is_named() -> None:
    with pytest.raises(
        ConfigError,
        match=r"preset must be one of quick, certified, cpu, paper, imagenet-first-look .* got 'fast'",
    ):
        build("fast")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--preset", "fast"], "preset must be one of"),
        (["--set", "vote.m=0"], "vote.m must be at least 1"),
        (["--only", "table9"], "--only takes"),
        (["--dataset", "letters"], "--dataset letters: unknown data set"),
        (["--dataset", "absent.npz"], "--dataset absent.npz: "),
        (["--device", "abacus"], "--device takes auto, cpu or cuda, got 'abacus'"),
        (["--model", "nowhere:make"], "--model: cannot import nowhere"),
        (["--model", "json:nothing"], "--model: json has no callable nothing"),
        (["--model", "absent.safetensors"], "--model: absent.safetensors: no such file"),
        (["--set", "train.point.epoch=3"], "train.point: unknown setting 'epoch'"),
        (["--set", "attacks.settings.T-FGSM.colour=3"], "attacks.settings.T-FGSM"),
        (["--set", "train.adversarial.attack=Tickle"], "train.adversarial.attack"),
    ],
)
def test_user_errors_are_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert cli.main([*argv, "--out", str(tmp_path / "out")]) == cli.BAD_ARGUMENTS
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert "\n" not in error.strip().removeprefix("rcfast.eval").split("python -m rcfast.eval")[-1]


def test_unknown_options_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--colour"]) == cli.BAD_ARGUMENTS
    assert cli.main(["--help"]) == cli.DONE
    text = capsys.readouterr().out
    for word in ("--preset", "--dry-run", "exit codes", "quick", "--defence"):
        assert word in text


def test_ctrl_c_is_one_plain_line_and_exit_code_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupt)
    assert cli.main([]) == cli.INTERRUPTED == 130
    assert capsys.readouterr().err == (
        "interrupted; what is finished is kept, the same command goes on from there\n"
    )


def test_a_full_disk_anywhere_is_one_line_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "/somewhere/file")

    monkeypatch.setattr(cli, "_run", full)
    assert cli.main([]) == cli.FAILED
    assert "no space left while writing /somewhere/file" in capsys.readouterr().err


def test_a_gpu_is_named_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for one process and for several, whose results must be equal."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    alone, third = (SimpleNamespace(size=size, here=(place, size)) for size, place in ((1, 0), (4, 2)))
    named = [find_device("cuda", alone), find_device("auto", alone), find_device("cuda", third)]  # type: ignore[arg-type]
    assert list(map(str, named)) == ["cuda:0", "cuda:0", "cuda:2"]
    assert str(find_device("cpu", alone)) == "cpu"  # type: ignore[arg-type]
