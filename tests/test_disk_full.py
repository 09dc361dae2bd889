"""The disk is full for real: a process that may write no more than some bytes into a file (RLIMIT_FSIZE)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rcfast import data, models, training
from rcfast.eval import cli
from rcfast.eval.run.store import Store

LIMIT = 20_000  # bytes: less than the weights of a network, more than a description
WITH_LIMIT = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
import sys
sys.path.insert(0, {here!r})
import test_disk_full
{call}
"""


def limited(call: str) -> subprocess.CompletedProcess[str]:
    """Run code that may use this file, in a process that can write LIMIT bytes into a file."""
    code = WITH_LIMIT.format(limit=LIMIT, here=str(Path(__file__).parent), call=call)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def fit(path: str) -> training.TrainingResult:
    train = data.load("digits").train
    return training.fit(models.digits_cnn(), train, epochs=1, precision="float32", checkpoint=path)


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    done = limited(f"test_disk_full.fit({str(path)!r})")
    assert re.search(r"OSError: \[Errno 27\] File too large: .*run\.safetensors", done.stderr), done.stderr
    assert files(tmp_path) == []
    fit(str(path))
    assert files(tmp_path) == ["run.safetensors"]
    assert path.stat().st_size > LIMIT


ARRAYS = {"a": np.random.default_rng(0).random(10_000)}


def save(root: str) -> None:
    store = Store(Path(root))
    store.save("vote", {"of": "few"}, {"a": ARRAYS["a"][:100]})
    store.save("vote", {"of": "many"}, ARRAYS)


@pytest.mark.slow
def test_a_part_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    done = limited(f"test_disk_full.save({str(tmp_path)!r})")
    assert re.search(r"StoreError: no space left while writing .*\.npz; free some", done.stderr), done.stderr
    store = Store(tmp_path)
    few = store.find("vote", {"of": "few"})
    assert few is not None
    assert store.find("vote", {"of": "many"}) is None
    assert files(tmp_path) == [f"store/vote/{few.key}.json", f"store/vote/{few.key}.npz"]
    save(str(tmp_path))
    many = store.find("vote", {"of": "many"})
    assert many is not None
    found = store.load(many)
    assert found is not None
    np.testing.assert_array_equal(found["a"], ARRAYS["a"])


def evaluate(out: str) -> int:
    settings = [
        "train.point.epochs=1",
        "length.r=0.1",
        "length.m=20",
        "length.curve_max=0",
        "vote.m=20",
        'defences=["point", "region"]',
    ]
    return cli.main(
        ["--out", out, "--only", "table3", *(item for text in settings for item in ("--set", text))]
    )


@pytest.mark.slow  # in short, within one process: test_eval_run.py::test_the_full_disk_leaves_a_run_that_goes_on
def test_the_command_says_so_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    done = limited(f"sys.exit(test_disk_full.evaluate({str(out)!r}))")
    assert done.returncode == cli.FAILED, done.stderr
    last = done.stderr.splitlines()[-1]
    assert re.search(r"no space left while writing .*\.safetensors; free some and run the same command", last)
    assert not [name for name in files(out) if name.endswith((".part", ".tmp", ".safetensors"))]
    assert evaluate(str(out)) == evaluate(str(whole)) == cli.DONE
    assert (out / "results.json").read_bytes() == (whole / "results.json").read_bytes()
    assert files(out) == files(whole)
