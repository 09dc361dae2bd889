"""--dry-run: it says what is missing and touches nothing, whatever state the folder is in."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rcfast.eval import build, cli
from rcfast.eval.evaluation import prepare
from rcfast.eval.run import dry
from rcfast.eval.run.attack import Case, make, settings
from rcfast.eval.run.compare import LearntSize
from rcfast.eval.run.context import Context
from rcfast.eval.run.dry import Job, makespan
from rcfast.eval.run.pace import Pace, likely_r
from rcfast.eval.run.progress import Progress
from rcfast.eval.run.store import Store, StoreError, digest
from rcfast.regions import Cube

SETTINGS = [
    'defences=["point","region"]',
    'attacks.names=["T-FGSM"]',
    "attacks.settings.T-FGSM={steps=8, refine=1}",
    "protocol.examples=4",
    "protocol.block=2",
    "train.point.epochs=3",
    "vote.m=20",
    "vote.seeds=[0]",
    "length.step=0.1",
    "length.m=20",
]


def arguments(out: Path) -> list[str]:
    return ["--out", str(out), "--only", "table3,table4", *(a for s in SETTINGS for a in ("--set", s))]


def state(out: Path) -> dict[str, tuple[bytes, int]]:
    """Return the bytes and the time of every file."""
    paths = [path for path in sorted(out.rglob("*")) if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dry") / "out"
    assert cli.main([*arguments(folder), "--quiet"]) == cli.DONE
    return folder


@pytest.fixture
def todo(capsys: pytest.CaptureFixture[str]) -> Callable[[Path], dict[str, int]]:
    """A dry run: how many parts of each stage are to do."""

    def run(folder: Path) -> dict[str, int]:
        capsys.readouterr()
        assert cli.main([*arguments(folder), "--dry-run"]) == cli.DONE
        said = re.findall(r"^(\w+) +(\d+) +(\d+) +(\d+) ", capsys.readouterr().out, re.M)
        assert all(int(total) == int(there) + int(missing) for _, total, there, missing in said)
        return {name: int(missing) for name, _, _, missing in said}

    return run


def test_an_empty_folder_stays_as_it_is(tmp_path: Path, todo: Callable[[Path], dict[str, int]]) -> None:
    missing = todo(tmp_path / "new")
    assert {name: missing[name] for name in ("train", "attack", "draw")} == {
        "train": 3,
        "attack": 2,
        "draw": 1,
    }
    assert not (tmp_path / "new").exists()


def test_a_dry_run_says_what_so_few_examples_can_show(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0 of 4 is compatible with up to 60%, by Clopper and Pearson."""
    assert cli.main([*arguments(out), "--dry-run"]) == cli.DONE
    said = " ".join(capsys.readouterr().out.split())
    assert "with 4 examples an untargeted rate of 0 is compatible with up to 60%" in said
    assert "which these cannot" in said, (
        "two attacks are compared, which takes at least seven examples that differ"
    )


@pytest.mark.parametrize("damage", ["data", "description", "none"])
@pytest.mark.parametrize(
    ("stage", "missing"),
    [
        (
            "train",
            {"train": 3, "attack": 2, "draw": 1},
        ),  # r and the examples belong to the weights, which are gone
        ("length", {"train": 1, "draw": 1}),
        ("attack", {"train": 0, "attack": 1, "draw": 1}),
        ("vote", {"train": 0, "attack": 0, "vote": 1, "draw": 1}),
        ("examples", {"train": 0, "attack": 0, "vote": 0, "draw": 0}),
    ],
)
def test_damaged_parts_are_counted_and_left_alone(
    out: Path, todo: Callable[[Path], dict[str, int]], stage: str, missing: dict[str, int], damage: str
) -> None:
    sidecar = min((out / "store" / stage).glob("*.json"))
    path = sidecar if damage == "description" else next(sidecar.parent.glob(f"{sidecar.stem}.[ns]*"))
    whole = path.read_bytes()
    try:
        if damage != "none":
            path.write_bytes(whole[:-20])
        before = state(out)
        found = todo(out)
        assert state(out) == before
    finally:
        path.write_bytes(whole)
    expected = missing if damage != "none" else dict.fromkeys(missing, 0)
    assert {name: found[name] for name in expected} == expected


def test_a_store_for_reading_writes_and_removes_nothing(tmp_path: Path) -> None:
    arrays = {"a": np.arange(3)}
    part = Store(tmp_path).save("vote", {"x": 1}, arrays)
    part.path.write_bytes(b"")
    said: list[str] = []
    store, before = Store(tmp_path, readonly=True, report=said.append), state(tmp_path)
    assert store.load(part) is None
    with pytest.raises(StoreError, match="opened for reading only"):
        store.save("vote", {"x": 2}, arrays)
    with pytest.raises(StoreError, match="opened for reading only"):
        store.adopt("vote", {"x": 1}, "digest")
    assert state(tmp_path) == before
    assert said == []


def test_the_time_of_an_attack_is_what_it_took_before_or_grows_with_its_budget(tmp_path: Path) -> None:
    case = Case("point", "T-CW-L2")

    def context(*settings: str) -> Context:
        config = build("paper", overrides={"data": {"name": "digits"}}, settings=settings)
        return prepare(config, tmp_path, [], Store(tmp_path, readonly=True), Progress("quiet"))

    full, cut = context(), context("attacks.settings.T-CW-L2.iterations=250")
    guesses = [Pace(0.0005, 0.001, 0.002).attack(ctx, case, 10) for ctx in (cut, full)]
    assert 0.25 * guesses[1] < guesses[0] < guesses[1]
    known = {digest([case.attack, settings(make(cut.config, case, cut.device))]): 7.0}
    pace = Pace(0.0005, 0.001, 0.002, known=known)
    assert pace.attack(cut, case, 3) == 21.0
    assert pace.attack(full, case, 10) == guesses[1]
    slow = Pace(0.0005, 0.001, 0.002, one=0.01)  # what surrounds a pass is spent once, for all rows
    assert 1.05 * guesses[1] < slow.attack(full, case, 10) < 10 * slow.attack(full, case, 1)


def test_the_size_of_a_compared_vote_is_guessed_from_its_own_examples(tmp_path: Path) -> None:
    def guess(count: int) -> float:
        config = build("quick", settings=[f"compare.validation={count}"])
        ctx = prepare(config, tmp_path, [], Store(tmp_path, readonly=True), Progress("quiet"))
        return LearntSize("cube").seconds(ctx, Pace(0.0005, 0.001, 0.002))

    assert guess(20) == pytest.approx(guess(40) / 2)
    assert guess(0) == guess(10**6) > guess(40)  # all of them


def test_jobs_are_shared_as_they_become_ready() -> None:
    """By hand: one process takes the sum; two wait for what the others need."""
    jobs = [Job(4), Job(1), Job(2, (1,)), Job(3, (0, 2)), Job(5)]
    assert makespan(jobs, 1) == 15
    assert makespan(jobs, 2) == 8  # 0 | 1, 2, and from 3 on 4; from 4 on 3
    assert makespan(jobs, 5) == 7
    assert makespan([], 3) == 0


def test_a_dry_run_guesses_for_many_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--dry-run", "--out", str(tmp_path / "out"), "--only", "table2"]
    assert cli.main([*arguments, "--processes", "8"]) == cli.DONE
    assert "by 8 processes, each as fast as this one, about" in capsys.readouterr().out
    assert cli.main(arguments) == cli.DONE
    assert "processes" not in capsys.readouterr().out


def test_votes_are_timed_in_the_precision_that_the_likely_region_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CIFAR-10's r is 0.01: its votes take float32 where those of MNIST take bfloat16, a third as long."""
    assert likely_r(build("cpu")) == pytest.approx(0.3)
    assert likely_r(build("cpu", settings=["data.name=cifar10"])) == pytest.approx(0.036)
    assert likely_r(build("cpu", settings=["length.r=0.07"])) == 0.07
    assert likely_r(build("cpu", settings=["length.curve_max=0"])) == 0.3
    seen: list[float] = []
    real = dry.precision

    def told(dtype: str, region: Cube, like: torch.Tensor) -> str:
        seen.append(float(region.r))
        return real(dtype, region, like)

    monkeypatch.setattr(dry, "precision", told)
    given = [*arguments(tmp_path / "out"), "--set", "length.curve_max=0.05", "--dry-run"]
    assert cli.main(given) == cli.DONE
    assert seen == [pytest.approx(0.03)]
