"""bench/gpu.sh with every command replaced: what it leaves behind when steps fail, hang or are skipped."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from rcfast import data

BENCH = Path(__file__).resolve().parent.parent / "bench"
sys.path.insert(0, str(BENCH))
import gpu_steps  # noqa: E402
import tf32  # noqa: E402

STEPS = ["build", "device", "tests", "kernels", "votes", "memcheck", "racecheck", "sass", "attacks"]
STUB = """#!/bin/sh
echo "ran $0 $*"
[ "$1" != --help ] || echo --kernel-regex
case "$*" in *"$FAILS"*) exit 3 ;; esac
case "$*" in *"$HANGS"*) sleep 30 ;; esac
exit 0
"""


def run(
    tmp_path: Path, fails: str = "nothing", hangs: str = "nothing", missing: str = "", **environment: str
) -> tuple[int, dict[str, str], str]:
    """Exit code, outcome of each step, and the log."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("python3", "compute-sanitizer", "nvcc"):
        (commands / name).write_text(STUB)
        (commands / name).chmod(0o755)
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    if missing:  # nor anywhere else
        for tool in ("bash", "cat", "dirname", "mkdir", "tee", "timeout", "sleep", "grep"):
            (commands / tool).symlink_to(str(shutil.which(tool)))
        (commands / missing).unlink()
        path = str(commands)
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


@pytest.mark.slow
def test_time_is_limited(tmp_path: Path) -> None:
    code, rows, _ = run(tmp_path, hangs="--parts votes", GPU_SECONDS="4")
    assert code == 1
    assert rows["votes"] == "out of time"
    assert set(rows) == set(STEPS)
    assert rows["attacks"] == "no time left"


def test_all_steps_together_have_less_than_nine_minutes() -> None:
    """No step has more than what is left of all (test_time_is_limited)."""
    text = (BENCH / "gpu.sh").read_text()
    assert "GPU_SECONDS:-530" in text  # less ten for the last step to end


@pytest.mark.parametrize(("missing", "step"), [("compute-sanitizer", "memcheck"), ("nvcc", "sass")])
def test_without_a_tool_the_script_does_not_pass(tmp_path: Path, missing: str, step: str) -> None:
    code, rows, _ = run(tmp_path, missing=missing)
    assert code == 1
    assert rows[step] == f"no {missing} on the path"
    assert all(outcome == "passed" for name, outcome in rows.items() if name != step)


@pytest.mark.slow
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


def test_tf32_keeps_ten_bits_of_what_convolutions_multiply() -> None:
    half = 2.0**-11  # of the last of ten bits, at 1
    values = torch.tensor([1.0, 1 + half, 1 + 0.9 * half, 1 + 3 * half, -1 - half, 0.0, 2.0**-20])
    kept = torch.tensor([1.0, 1 + 2 * half, 1.0, 1 + 4 * half, -1 - 2 * half, 0.0, 2.0**-20])
    assert torch.equal(tf32.rounded(values), kept)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()).eval()
    x, weight = torch.rand(3, 1, 5, 5), model[0].weight.detach().clone()
    with torch.no_grad():
        expected = nn.functional.conv2d(tf32.rounded(x), tf32.rounded(weight), model[0].bias).flatten(1)
        assert torch.equal(tf32.in_tf32(model)(x), expected)
        assert not torch.equal(model(x), expected)
    assert torch.equal(model[0].weight, weight)


def test_what_tf32_does_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], digits: data.Dataset
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).eval()
    monkeypatch.setattr(tf32, "dataset_and_model", lambda *_: (digits, model, "digits"))
    monkeypatch.setattr(tf32, "M", 50)
    monkeypatch.setattr(sys, "argv", ["tf32.py", "--images", "3"])
    assert tf32.main() == 0
    assert " of 150 " in capsys.readouterr().out
