"""The machinery of rcfast.eval without the numbers: configuration, plan, store, protocol, arguments."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rcfast import files
from rcfast.eval import cli
from rcfast.eval.config import PRESETS, ConfigError, build, parse_setting
from rcfast.eval.plan import Unit, make_plan, parse_only
from rcfast.eval.progress import Progress, duration
from rcfast.eval.protocol import (
    Candidates,
    choose,
    draw_examples,
    draw_targets,
    grid_examples,
    summarise,
    targeted,
    untargeted,
)
from rcfast.eval.results import OUTPUTS
from rcfast.eval.store import Store, StoreError, digest, digest_arrays, write_atomic

# ---- configuration


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_measure_all_four_defences(name: str) -> None:
    config = build(name)
    assert config.defences == ["point", "adversarial", "distillation", "region"]
    assert len(config.attacks.names) == 7
    assert len(config.vote.seeds) >= 3


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


def test_unknown_preset_is_named() -> None:
    with pytest.raises(ConfigError, match=r"preset must be one of quick, cpu, paper .* got 'fast'"):
        build("fast")


# ---- plan


def test_only_runs_what_an_output_needs() -> None:
    config = build("quick")
    table4 = make_plan(config, parse_only("table4"))
    assert {u.attack for u in table4.units} == {
        "T-JSMA",
        "T-CW-L0",
        "T-FGSM",
        "T-IGSM",
        "T-CW-Linf",
        "T-CW-L2",
    }
    assert {u.network for u in table4.units} == {"point", "adversarial", "distillation"}
    assert not any(u.confidence for u in table4.units)
    assert not table4.benign
    assert table4.length

    assert make_plan(config, ["table2"]).units == {}
    assert make_plan(config, ["table2"]).networks == ("point",)
    assert make_plan(config, ["table3"]).networks == ("point", "adversarial", "distillation")

    figure1 = make_plan(config, ["figure1"])
    assert figure1.units == {Unit("point", "T-CW-L2"): {"grid"}}
    assert not figure1.length

    figure8 = make_plan(config, ["figure8"])
    assert {u.attack for u in figure8.units} == {"T-CW-L0", "T-CW-L2", "T-CW-Linf"}
    assert all(set(alphas) == set(config.attacks.alphas) for alphas in figure8.adapted.values())

    assert make_plan(config, ["figure2"]).units[Unit("point", "T-CW-L0")] == {"histogram"}
    figure6 = make_plan(config, ["figure6"])
    assert {u.confidence for u in figure6.units} == set(config.attacks.confidences)


def test_networks_and_attacks_left_out_are_not_run() -> None:
    config = build("quick", settings=['defences=["point","region"]', 'attacks.names=["T-FGSM"]'])
    plan = make_plan(config)
    assert plan.networks == ("point",)
    assert set(plan.units) == {Unit("point", "T-FGSM")}
    with_own = make_plan(config, extra=("mine",))
    assert Unit("mine", "T-FGSM") in with_own.units


def test_only_is_checked() -> None:
    assert parse_only(None) == OUTPUTS
    assert parse_only(" figure8,TABLE4 ") == ("table4", "figure8")
    for text in ("table9", "", "figure3"):
        with pytest.raises(ConfigError, match="--only"):
            parse_only(text)


# ---- store


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    return {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array([True, False]),
        "c": np.asarray(7),
    }


def test_a_part_is_found_by_its_inputs_alone(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    kept = Store(tmp_path)
    saved = kept.save("attack", {"x": 1, "y": [1, 2]}, arrays, seconds=1.5, info={"n": 2})
    found = Store(tmp_path).find("attack", {"y": [1, 2], "x": 1})
    assert found is not None
    assert (found.digest, found.seconds, found.info) == (saved.digest, 1.5, {"n": 2})
    loaded = kept.load(found)
    assert loaded is not None
    assert {k: v.tolist() for k, v in loaded.items()} == {k: v.tolist() for k, v in arrays.items()}
    assert kept.find("attack", {"x": 2, "y": [1, 2]}) is None
    assert kept.find("vote", {"x": 1, "y": [1, 2]}) is None


def test_digests_see_every_bit(arrays: dict[str, np.ndarray]) -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})
    base = digest_arrays(arrays)
    assert digest_arrays({**arrays, "a": arrays["a"].T}) != base
    assert digest_arrays({**arrays, "a": arrays["a"].astype(np.float64)}) != base
    assert digest_arrays({"c": arrays["a"], "b": arrays["b"]}) != base
    changed = arrays["a"].copy()
    changed[1, 2] = np.nextafter(changed[1, 2], np.float32(9))
    assert digest_arrays({**arrays, "a": changed}) != base


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "sidecar"])
def test_a_corrupt_part_is_reported_and_gone(
    tmp_path: Path, arrays: dict[str, np.ndarray], damage: str
) -> None:
    said: list[str] = []
    kept = Store(tmp_path, report=said.append)
    part = kept.save("attack", {"x": 1}, arrays)
    data = part.path.read_bytes()
    if damage == "truncate":
        part.path.write_bytes(data[:-7])
    elif damage == "flip":
        part.path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    elif damage == "empty":
        part.path.write_bytes(b"")
    else:
        part.path.with_suffix(".json").write_text('{"digest": "x"')
    found = kept.find("attack", {"x": 1})
    assert (None if found is None else kept.load(found)) is None
    assert len(said) == 1
    assert "is corrupt" in said[0]
    assert "computed again" in said[0]
    assert kept.find("attack", {"x": 1}) is None


def test_data_without_its_description_does_not_count(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    kept = Store(tmp_path)
    part = kept.save("attack", {"x": 1}, arrays)
    part.path.with_suffix(".json").unlink()
    assert kept.find("attack", {"x": 1}) is None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")

    def full(handle: object, data: bytes) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files, "_write", full)
    with pytest.raises(StoreError, match=r"no space left .* run the same command again"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_one_run_at_a_time_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from rcfast.eval.store import Store\n"
        "with Store(Path(sys.argv[1])).locked(): print('in', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        with (
            pytest.raises(StoreError, match=rf"another run \(process {other.pid}\) is writing into .*--out"),
            Store(tmp_path).locked(),
        ):
            pass
    finally:
        other.kill()
        other.wait()
    with Store(tmp_path).locked():
        pass


def test_what_a_killed_run_left_half_written_is_swept(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / ".abc.npz.part").write_bytes(b"half")
    with Store(tmp_path).locked():
        assert list((tmp_path / "store").iterdir()) == []


# ---- protocol


def test_examples_are_drawn_among_the_correct_by_seed() -> None:
    y = np.arange(100) % 10
    said = np.where(np.arange(100) % 7 == 0, (y + 1) % 10, y)
    drawn = draw_examples(y, said, count=20, seed=1)
    assert len(set(drawn.tolist())) == 20
    assert (said[drawn] == y[drawn]).all()
    assert (drawn == draw_examples(y, said, count=20, seed=1)).all()
    assert (drawn != draw_examples(y, said, count=20, seed=2)).any()
    assert set(draw_examples(y, said, count=1000, seed=1).tolist()) == set(np.flatnonzero(said == y).tolist())
    grid = grid_examples(y, said, drawn=drawn, rows=10, seed=1)
    assert y[grid].tolist() == list(range(10))
    for label in range(10):
        own = [i for i in drawn if y[i] == label]
        assert not own or grid[label] == own[0]
    assert grid_examples(y, np.where(y == 3, 4, y), drawn=drawn[:0], rows=10, seed=1)[3] == -1


def test_targets_are_all_other_labels_or_some() -> None:
    y = np.array([0, 4, 9])
    every = draw_targets(y, num_classes=10, count=0, seed=0)
    assert every.shape == (3, 9)
    assert every[1].tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    some = draw_targets(y, num_classes=10, count=4, seed=0)
    assert some.shape == (3, 4)
    assert all(label not in row for label, row in zip(y, some, strict=True))
    assert all(len(set(row)) == 4 for row in some.tolist())


def candidates(noise: list, success: list, said: list, targets: list | None = None) -> Candidates:
    shape = np.array(noise).shape
    return Candidates(
        success=np.array(success, bool),
        noise=np.array(noise, float),
        targets=np.array(
            targets if targets is not None else np.tile(np.arange(1, shape[1] + 1), (shape[0], 1))
        ),
        said=np.array(said)[None],
    )


def test_the_two_readings_of_the_protocol_differ_as_they_must() -> None:
    # One example of label 0, three targets; the defence is fooled by the second (as 2) and third (as 1).
    own = candidates([[1.0, 2.0, 3.0]], [[True, True, True]], [[0, 2, 1]])
    truth = np.array([0])
    by_defence, by_model = untargeted([own], truth, "defence"), untargeted([own], truth, "model")
    assert (by_defence.success.tolist(), by_defence.noise.tolist()) == ([[True]], [[2.0]])
    assert (by_model.success.tolist(), by_model.noise.tolist()) == ([[False]], [[0.0]])
    # Targeted: only the second answers its own target; both readings agree where there is one candidate.
    for reading in ("defence", "model"):
        assert targeted([own], reading).success.tolist() == [[False, True, False]]


def test_a_failed_attack_is_no_candidate() -> None:
    # The clean input comes back for the first target, and the defence happens to err on it.
    own = candidates([[0.0, 2.0]], [[False, True]], [[1, 0]])
    for reading in ("defence", "model"):
        assert not untargeted([own], np.array([0]), reading).success.any()
        assert not targeted([own], reading).success.any()


def test_combined_attacks_take_the_least_noise_of_several() -> None:
    weak = candidates([[3.0, 1.0]], [[True, True]], [[1, 0]])
    strong = candidates([[5.0, 4.0]], [[True, True]], [[1, 2]])
    outcome = targeted([weak, strong], "defence")
    assert (outcome.success.tolist(), outcome.noise.tolist()) == ([[True, True]], [[3.0, 4.0]])
    outcome = targeted([weak, strong], "model")
    assert (outcome.success.tolist(), outcome.noise.tolist()) == ([[True, False]], [[3.0, 0.0]])
    outcome = untargeted([weak, strong], np.array([0]), "defence")
    assert (outcome.success.tolist(), outcome.noise.tolist()) == ([[True]], [[3.0]])


def test_choice_agrees_with_a_literal_loop() -> None:
    generator = np.random.default_rng(0)
    noise = generator.integers(1, 6, (50, 7)).astype(float)
    available, wins = generator.random((50, 7)) < 0.6, generator.random((3, 50, 7)) < 0.4
    for reading in ("defence", "model"):
        outcome = choose(noise, available, wins, reading)
        for s in range(3):
            for i in range(50):
                offered = [k for k in range(7) if available[i, k] and (reading == "model" or wins[s, i, k])]
                best = min(offered, key=lambda k: (noise[i, k], k), default=None)
                success = best is not None and bool(wins[s, i, best])
                assert outcome.success[s, i] == success
                assert outcome.noise[s, i] == (noise[i, best] if success else 0)


def test_a_row_counts_successes_and_averages_over_them() -> None:
    own = Candidates(
        success=np.ones((2, 2), bool),
        noise=np.array([[1.0, 2.0], [4.0, 8.0]]),
        targets=np.array([[1, 2], [1, 2]]),
        said=np.array([[[1, 2], [0, 2]], [[1, 0], [0, 0]]]),
    )
    row = summarise(
        targeted([own], "defence"),
        group="targeted",
        attack="T-X",
        norm=2,
        defence="region",
        reading="defence",
        random=True,
    )
    assert (row["success"], row["n"], row["per_seed"], row["norm"]) == (3, 4, [3, 1], "L2")
    assert row["noise_mean"] == pytest.approx(11 / 3)
    assert row["noise_se"] == pytest.approx(np.std([1, 2, 8], ddof=1) / 3**0.5)


# ---- arguments


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
    def interrupt(arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupt)
    assert cli.main([]) == cli.INTERRUPTED == 130
    assert capsys.readouterr().err == (
        "interrupted; what is finished is kept, the same command goes on from there\n"
    )


def test_a_full_disk_anywhere_is_one_line_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "/somewhere/file")

    monkeypatch.setattr(cli, "_run", full)
    assert cli.main([]) == cli.FAILED
    assert "no space left while writing /somewhere/file" in capsys.readouterr().err


# ---- progress


def test_progress_is_plain_lines_in_a_log_and_silence_when_quiet(tmp_path: Path) -> None:
    for mode, expected in (("auto", ["attack: 3 parts", "note"]), ("quiet", [])):
        with open(tmp_path / mode, "w+") as stream:
            progress = Progress(mode, stream)  # type: ignore[arg-type]
            with progress.stage("attack", 3) as bar:
                progress.print("note")
                bar.advance(3)
            stream.seek(0)
            lines = stream.read().splitlines()
        assert lines[: len(expected)] == expected
        assert not any("\r" in line or "\x1b" in line for line in lines)
        assert (lines == []) == (mode == "quiet")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0.04, "0.0 s"), (0.44, "0.4 s"), (9.99, "10.0 s"), (42, "42 s"), (42.4, "42 s")),
        *((185, "3 min 05 s"), (200, "3 min 20 s"), (3599.7, "1 h 00 min"), (7500, "2 h 05 min")),
        (7800, "2 h 10 min"),
    ],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sidecars_say_what_a_part_was_made_from(tmp_path: Path) -> None:
    part = Store(tmp_path).save("vote", {"seed": 3}, {"said": np.zeros(2)}, seconds=0.25)
    said = json.loads(part.path.with_suffix(".json").read_text())
    assert said["inputs"] == {"seed": 3}
    assert said["seconds"] == 0.25
    assert len(said["sha256"]) == 64
