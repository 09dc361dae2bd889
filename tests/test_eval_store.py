"""The store of finished parts, and what a run says while it works."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rcfast import files
from rcfast.eval.run.progress import Progress, duration
from rcfast.eval.run.store import Store, StoreError, digest, digest_arrays, write_atomic


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
        "import sys, time; from pathlib import Path; from rcfast.eval.run.store import Store\n"
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


def test_a_dead_run_holds_nothing_though_a_process_that_it_forked_lives(tmp_path: Path) -> None:
    script = (
        "import os, sys, time; from pathlib import Path; from rcfast.eval.run.store import Store\n"
        "with Store(Path(sys.argv[1])).locked():\n"
        "    if not os.fork(): print(os.getpid(), flush=True)\n"
        "    time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    child = int(other.stdout.readline())
    other.kill()
    other.wait()
    try:
        with Store(tmp_path).locked():
            os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)


def test_what_a_killed_run_left_half_written_is_swept(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / ".abc.npz.part").write_bytes(b"half")
    with Store(tmp_path).locked():
        assert list((tmp_path / "store").iterdir()) == []


def test_sidecars_say_what_a_part_was_made_from(tmp_path: Path) -> None:
    part = Store(tmp_path).save("vote", {"seed": 3}, {"said": np.zeros(2)}, seconds=0.25)
    said = json.loads(part.path.with_suffix(".json").read_text())
    assert said["inputs"] == {"seed": 3}
    assert said["seconds"] == 0.25
    assert len(said["sha256"]) == 64


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


@pytest.mark.parametrize(("unit", "told"), [("examples", True), ("parts", False)])
def test_the_time_left_is_told_of_what_is_alike(
    unit: str, told: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 30))
    monkeypatch.setattr("rcfast.eval.run.progress.time.monotonic", lambda: next(clock))
    with Progress("lines").stage("work", 4, unit) as bar:
        bar.advance()
    said = capsys.readouterr().err
    assert f"work: 1 of 4 {unit}" in said
    assert ("3 min 00 s left" in said) == told


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
