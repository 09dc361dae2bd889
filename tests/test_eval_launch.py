"""A run that the command shares among processes by itself: who is started, and what ends when something dies."""

import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from test_eval_kill import arguments, count, fingerprint
from test_eval_processes import BRIEF, environment, workers

from rcfast.eval import cli
from rcfast.eval.run import launch
from rcfast.eval.run.begun import begin
from rcfast.eval.run.settings import build


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", launch.WATCHED):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")


def automatic(out: Path, **settings: object) -> int:
    over = {"device": "cpu", **settings}
    return launch.automatic(build("quick", overrides=over, settings=[]), out)


def test_small_images_take_a_process_a_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert automatic(tmp_path) == 4
    assert automatic(tmp_path, data={"name": "mnist"}) == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert automatic(tmp_path) == launch.MOST
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert automatic(tmp_path) == 1


def test_what_else_takes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert automatic(tmp_path, data={"name": "cifar10"}) == 1
    assert automatic(tmp_path, device="cuda") == 1
    monkeypatch.setenv("WORLD_SIZE", "2")  # torchrun has decided
    assert automatic(tmp_path) == 1


def test_threads_that_are_settled_leave_fewer(tmp_path: Path) -> None:
    assert automatic(tmp_path, threads=2) == 2
    begin(tmp_path, 3, 3)
    assert automatic(tmp_path) == 1


@pytest.mark.parametrize("number", ["0", "-1"])
def test_no_process(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--processes", number]) == cli.BAD_ARGUMENTS
    assert f"--processes must be positive, got {number}" in capsys.readouterr().err


def test_another_number_than_torchruns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["--processes", "3"]) == cli.BAD_ARGUMENTS
    assert "--processes 3: torchrun has started 2" in capsys.readouterr().err


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "rcfast.eval", *arguments(out), *BRIEF, *more]


HEARS = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which a job in the background ignores


def started(out: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """A run of two processes that has finished some parts, and the two."""
    run = subprocess.Popen(
        command(out, "--processes", "2"),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=HEARS,
    )
    before = count(out)
    while run.poll() is None and count(out) < before + 3:
        time.sleep(0.02)
    return run, workers(run.pid)


def gone(processes: list[int]) -> bool:
    end = time.monotonic() + 20
    while any(Path(f"/proc/{each}").exists() for each in processes) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(Path(f"/proc/{each}").exists() for each in processes)


@pytest.mark.slow
def test_however_it_ends_nothing_is_left_running_and_nothing_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C, then the command killed, then one of its processes; the run that is left alone has the same bytes."""
    out = tmp_path / "out"
    run, both = started(out)
    assert cli.main([*arguments(out), *BRIEF, "--processes", "1"]) == cli.FAILED  # the two share their lock
    holder = re.search(r"another run \(process (\d+)\) is writing into ", capsys.readouterr().err)
    assert holder
    assert int(holder[1]) in both
    run.send_signal(signal.SIGINT)  # to the command alone, as `timeout --foreground` gives it
    said = run.communicate(timeout=60)[1]
    assert run.returncode == cli.INTERRUPTED
    assert said.count("interrupted") == 1, said
    assert "Traceback" not in said, said
    assert len(both) == 2
    assert gone(both)

    run, both = started(out)
    run.kill()
    run.communicate(timeout=60)
    assert len(both) == 2
    assert gone(both)

    run, both = started(out)
    os.kill(both[1], signal.SIGKILL)
    said = run.communicate(timeout=60)[1]
    assert run.returncode == cli.FAILED
    assert "a process was ended by signal 9; what is finished is kept" in said, said
    assert gone(both)

    subprocess.run(command(out, "--processes", "2"), check=True, env=environment())
    subprocess.run(command(tmp_path / "alone", "--processes", "1"), check=True, env=environment())
    assert fingerprint(out) == fingerprint(tmp_path / "alone")


@pytest.mark.slow
def test_what_cannot_be_used_is_told_once(tmp_path: Path) -> None:
    run = subprocess.run(
        command(tmp_path / "out", "--processes", "3", "--dataset", "nowhere.npz"),
        check=False,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert run.returncode == cli.BAD_ARGUMENTS
    assert run.stderr.count("--dataset nowhere.npz: ") == 1, run.stderr
    assert "Traceback" not in run.stderr, run.stderr
