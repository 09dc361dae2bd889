"""bench/gpu.sh with every command replaced: what it leaves behind when steps fail, hang or are skipped."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"
sys.path.insert(0, str(BENCH))
import gpu_steps  # noqa: E402

STEPS = ["build", "device", "tests", "kernels", "votes", "memcheck", "racecheck", "sass", "attacks"]
STUB = """#!/bin/sh
echo "ran $0 $*"
[ "$1" != --help ] || echo --kernel-regex
case "$*" in *"$FAILS"*) exit 3 ;; esac
case "$*" in *"$HANGS"*) sleep 30 ;; esac
exit 0
"""


def run(
    tmp_path: Path, fails: str = "nothing", hangs: str = "nothing", **environment: str
) -> tuple[int, dict[str, str], str]:
    """Exit code, outcome of each step, and the log."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("python3", "compute-sanitizer", "nvcc"):
        (commands / name).write_text(STUB)
        (commands / name).chmod(0o755)
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "FAILS": fails, "HANGS": hangs, **environment}
    done = subprocess.run(
        ["bash", BENCH / "gpu.sh", tmp_path / "out"], env=env, capture_output=True, timeout=60
    )
    with (tmp_path / "out" / "steps.tsv").open() as file:
        rows = {row["step"]: row["outcome"] for row in csv.DictReader(file, delimiter="\t")}
    return done.returncode, rows, (tmp_path / "out" / "log.txt").read_text()


def test_all_steps_pass(tmp_path: Path) -> None:
    code, rows, log = run(tmp_path)
    assert code == 0
    assert rows == dict.fromkeys(STEPS, "passed")
    assert "throughput.py --device cuda" in log
    assert "--kernel-regex kns=rcfast" in log


@pytest.mark.parametrize("step", ["build", "device"])
def test_without_a_build_or_a_device_it_ends(tmp_path: Path, step: str) -> None:
    code, rows, log = run(tmp_path, fails={"build": "build_ext", "device": "gpu_steps.py device"}[step])
    assert code == 1
    assert list(rows) == STEPS[: STEPS.index(step) + 1]
    assert rows[step] == "FAILED"
    assert f"no {step}, no results" in log


def test_the_others_are_run_when_one_fails(tmp_path: Path) -> None:
    code, rows, _ = run(tmp_path, fails="gpu_steps.py tests")
    assert code == 1
    assert rows == {**dict.fromkeys(STEPS, "passed"), "tests": "FAILED"}


def test_time_is_limited(tmp_path: Path) -> None:
    code, rows, _ = run(tmp_path, hangs="--parts votes", GPU_SECONDS="4")
    assert code == 1
    assert rows["votes"] == "out of time"
    assert set(rows) == set(STEPS)
    assert rows["attacks"] == "no time left"


def test_the_limits_add_up_to_less_than_nine_minutes() -> None:
    text = (BENCH / "gpu.sh").read_text()
    assert "GPU_SECONDS:-530" in text  # less ten for the last step to end


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def test(): pass", None),
        ("def test(): assert False", "tests failed"),
        ("import pytest\n@pytest.mark.skip\ndef test(): pass", "1 tests were skipped"),
        ("def helper(): pass", "no test was run"),
    ],
)
def test_skipped_tests_do_not_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str | None
) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_some.py").write_text(f"import pytest\npytestmark = pytest.mark.gpu\n{body}\n")
    (tmp_path / "tests" / "test_other.py").write_text("import a_library_that_is_missing\n")
    monkeypatch.setattr(gpu_steps, "ROOT", tmp_path)
    if message is None:
        gpu_steps.tests("gpu", str(tmp_path / "tests.xml"))
    else:
        with pytest.raises(SystemExit, match=message):
            gpu_steps.tests("gpu", str(tmp_path / "tests.xml"))


def test_the_device_must_be_there() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    with pytest.raises(SystemExit, match="torch sees no CUDA device"):
        gpu_steps.device("cuda")


def test_each_kernel_has_the_bits_of_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    gpu_steps.kernels("cpu")
    assert "the bits of the CPU" in capsys.readouterr().out
