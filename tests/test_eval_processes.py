"""A run of several processes, on one host or two, killed or not, ends with the same bytes as one of a single process.

This file is also a program: it loads torch once and forks the ranks of every attempt, which makes a kill cheap.
"""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from test_eval_kill import arguments, fingerprint, preload

from rcfast.eval.run import loop
from rcfast.eval.run.config import ConfigError, StageError
from rcfast.eval.run.store import Part
from rcfast.eval.run.team import Ended, News, Team, fresh

BRIEF = ["--set", "threads=1", "--only", "table3,table4,table5,figure4"]
ALIKE = [
    *("--set", "threads=1", "--only"),
    "vote_attacks,vote_images,worst,table2,table3,table4,table5,table6,figure1,figure4,figure8,checks",
]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}


def torchrun(
    out: Path, *options: str, more: tuple[str, ...] = (), stdout: Any = subprocess.PIPE
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "rcfast.eval"]
    command += [*arguments(out), *ALIKE, *more]
    return subprocess.Popen(command, env=environment(), stdout=stdout, stderr=subprocess.STDOUT, text=True)


def free_port() -> int:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return int(own.getsockname()[1])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of a run of one process."""
    out = tmp_path_factory.mktemp("alone") / "report"
    command = [sys.executable, "-m", "rcfast.eval", *arguments(out), *ALIKE]
    subprocess.run(command, check=True, env=environment())
    return fingerprint(out)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [3, 8])  # two: on two hosts below
def test_any_number_of_processes(processes: int, alone: dict[str, str], tmp_path: Path) -> None:
    run = torchrun(tmp_path / "out", "--standalone", f"--nproc-per-node={processes}")
    said = run.communicate(timeout=600)[0]
    assert run.returncode == 0, said
    assert fingerprint(tmp_path / "out") == alone


@pytest.mark.slow
def test_two_hosts(alone: dict[str, str], tmp_path: Path) -> None:
    """Two agents, as on two machines that share a folder, here on the loopback address."""
    where = [f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--rdzv-backend=c10d", "--rdzv-id=two"]
    options = ["--nnodes=2", "--nproc-per-node=1", *where]
    hosts = [torchrun(tmp_path / "out", *options) for _ in range(2)]
    said = [host.communicate(timeout=600)[0] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], said
    assert fingerprint(tmp_path / "out") == alone


def workers(agent: int) -> list[int]:
    """Process ids of the ranks that an agent of torchrun has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            if parent == agent and "rcfast.eval" in (path.parent / "cmdline").read_text():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return sorted(found)


@pytest.mark.slow
def test_torchrun_starts_killed_ranks_anew(alone: dict[str, str], tmp_path: Path) -> None:
    """All ranks after each kill; each attempt may go a little further."""
    dice, kills, killed = random.Random(0), 4, 0
    options = ["--standalone", "--nproc-per-node=3", f"--max-restarts={kills}"]
    with open(tmp_path / "said", "w") as said:
        run = torchrun(tmp_path / "out", *options, stdout=said)
        seen: tuple[list[int], int] = ([], 0)
        while run.poll() is None:
            ranks = workers(run.pid)
            if ranks != seen[0]:
                seen = (ranks, finished(tmp_path / "out") + dice.randint(1, 4))
            elif len(ranks) == 3 and finished(tmp_path / "out") >= seen[1] and killed < kills:
                os.kill(dice.choice(ranks), signal.SIGKILL)
                killed += 1
            time.sleep(0.05)
    assert run.returncode == 0, (tmp_path / "said").read_text()
    assert killed > 2, "the run was over too soon"
    assert fingerprint(tmp_path / "out") == alone


def finished(out: Path) -> int:
    """How many parts are in the store."""
    return len(list((out / "store").glob("*/*.json")))


def attempt(out: Path, ranks: int, more: int | None, dice: random.Random, options: list[str]) -> bool:
    """Run in forked processes; once so many more parts are there kill one of them and, as torchrun does, the others.

    Returns whether it came to its end before.
    """
    from rcfast.eval import cli

    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
    children = []
    for rank in range(ranks):
        if (child := os.fork()) == 0:
            os.environ.update(where, RANK=str(rank), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(ranks))
            os._exit(cli.main([*arguments(out), *options]))
        children.append(child)
    wanted, end = None if more is None else finished(out) + more, float("inf")
    codes: dict[int, int] = {}
    while len(codes) < ranks:
        for child in set(children) - set(codes):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                codes[child] = os.waitstatus_to_exitcode(status)
        if wanted is not None and end == float("inf") and finished(out) >= wanted:
            end = time.monotonic() + dice.uniform(0, 0.3)
        if time.monotonic() > end and not codes:
            for child in dice.sample(children, ranks):
                os.kill(child, signal.SIGKILL)
                time.sleep(0.01)
        time.sleep(0.002)
    ended = not any(codes.values())
    assert ended or -signal.SIGKILL in codes.values(), codes
    return ended


def main(root: Path, kills: int) -> int:
    """Kill ranks again and again; where a run came to its end all the same, the next one begins in a new folder."""
    preload()
    dice, killed, alike, grown = random.Random(1), 0, [], 0
    options = ALIKE if kills > 2 else BRIEF
    assert attempt(root / "alone", 1, None, dice, options)
    while killed < kills or not alike:
        out = root / f"out{len(alike)}"
        more, before = dice.randint(0, 4) if killed < kills else None, finished(out)
        if attempt(out, 2 + killed % 2, more, dice, options):
            alike.append(fingerprint(out) == fingerprint(root / "alone"))
        else:
            killed += 1
            grown += finished(out) > before
    print(json.dumps({"killed": killed, "alike": alike, "grown": grown}))
    return 0


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_ranks_change_nothing(kills: int, tmp_path: Path) -> None:
    command = [sys.executable, __file__, str(tmp_path), str(kills)]
    said = json.loads(subprocess.run(command, check=True, env=environment(), stdout=subprocess.PIPE).stdout)
    assert said["killed"] == kills
    assert all(said["alike"]), said
    assert said["grown"] >= kills // 2, "most kills met work that was under way"


@pytest.mark.slow
def test_a_setting_that_cannot_be_used_is_told_once(tmp_path: Path) -> None:
    """By one line of one process; torchrun repeats the exit code, 2 as of a single process."""
    run = torchrun(tmp_path / "out", "--standalone", "--nproc-per-node=3", more=("--dataset", "nowhere.npz"))
    said = run.communicate(timeout=300)[0]
    assert run.returncode != 0
    assert len(re.findall(r"--dataset nowhere.npz: ", said)) == 1, said
    assert set(re.findall(r"exitcode *: (\d+)", said)) == {"2"}, said
    assert said.count("Traceback (most recent") == said.count("raise ChildFailedError("), (
        said
    )  # torchrun's own
    assert not (tmp_path / "out" / "store" / "train").exists()


# ---- the same in threads, quickly


@dataclass(frozen=True)
class Step:
    """A unit that notes who computed it."""

    name: str
    after: tuple["Step", ...] = ()
    stage: str = "attack"
    fails: bool = False

    def __str__(self) -> str:
        return self.name

    def needs(self, ctx: "Room") -> tuple["Step", ...]:
        return self.after

    def size(self, ctx: "Room") -> int:
        return 1

    def tidy(self, ctx: "Room") -> None: ...

    def compute(self, ctx: "Room") -> None:
        assert all(ctx.find(step) for step in self.after), "what it needs was finished before"
        time.sleep(0.002)
        if self.fails:
            raise StageError(f"{self.name} fails")
        with ctx.shared["lock"]:
            ctx.shared["order"].append((self.name, ctx.team.rank))


@dataclass
class Room:
    """What the loop asks of a context; `shared` stands for the folder."""

    team: Team
    shared: dict[str, Any]
    stages: list[Any] = field(default_factory=list)
    told: set[Step] = field(default_factory=set)

    def __post_init__(self) -> None:
        from rcfast.eval.run.progress import Progress

        self.progress = Progress("quiet")

    def find(self, unit: Step) -> Part | None:
        return self.shared["parts"].get(unit)

    def keep(self, unit: Step, made: None, seconds: float) -> Part:
        self.shared["parts"][unit] = Part("attack", unit.name, Path(unit.name), unit.name, 1.0, {}, {})
        return self.shared["parts"][unit]


def work(plans: list[list[Step]], size: int) -> tuple[list[Room], list[BaseException | None], dict[str, Any]]:
    store = torch.distributed.HashStore()
    shared: dict[str, Any] = {"parts": {}, "order": [], "lock": threading.Lock()}
    rooms = [Room(Team(store, rank, size), shared) for rank in range(size)]
    ended: list[BaseException | None] = [None] * size

    def run(room: Room) -> None:
        try:
            with room.team.together():
                for plan in plans:
                    loop.perform(room, plan)  # type: ignore[arg-type]
        except BaseException as error:
            ended[room.team.rank] = error

    threads = [threading.Thread(target=run, args=(room,)) for room in rooms]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return rooms, ended, shared


def test_each_unit_is_computed_once_and_after_what_it_needs() -> None:
    first = [Step(f"a{i}", stage="train") for i in range(5)]
    second = [Step(f"b{i}", after=(first[i % 5],)) for i in range(20)]
    last = [Step("c", after=tuple(second), stage="vote")]
    rooms, ended, shared = work([first, second + last], 4)
    assert ended == [None] * 4
    names = [name for name, _ in shared["order"]]
    assert sorted(names) == sorted(step.name for step in first + second + last)
    for room in rooms:
        assert {stage["name"]: stage["seconds"] for stage in room.stages} == {
            "train": 5,
            "attack": 20,
            "vote": 1,
        }
        assert not any(stage["reused"] for stage in room.stages)


def test_a_unit_goes_to_whoever_asks_first() -> None:
    store = torch.distributed.HashStore()
    plans = [Team(store, rank, 2).plan() for rank in range(2)]
    assert plans[1].claim(3)
    assert not plans[0].claim(3)
    assert plans[0].claim(4)
    plans[0].tell(News(4, 1.5, False))
    assert list(plans[1].news(wait=True)) == list(plans[0].news(wait=False)) == [News(4, 1.5, False)]
    assert list(plans[1].news(wait=False)) == []


def test_an_attempt_finds_nothing_of_the_one_before() -> None:
    """torchrun keeps one store for all its restarts: what a killed process had taken must be free again."""
    store = torch.distributed.HashStore()
    for _ in range(3):
        teams: list[Team | None] = [None] * 3

        def enter(rank: int, teams: list[Team | None] = teams) -> None:
            teams[rank] = Team(fresh(store, rank, 3), rank, 3)

        threads = [threading.Thread(target=enter, args=(rank,)) for rank in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        claims = [team.plan() for team in teams if team is not None]
        assert [claim.claim(0) for claim in claims] == [True, False, False]
        assert claims[2].claim(1)


def test_what_is_there_is_not_done_again() -> None:
    steps = [Step(f"a{i}") for i in range(6)]
    store = torch.distributed.HashStore()
    shared: dict[str, Any] = {"parts": {}, "order": [], "lock": threading.Lock()}
    room = Room(Team(store, 0, 2), shared)
    for step in steps:
        room.keep(step, None, 0)
    loop.perform(room, steps)  # type: ignore[arg-type]
    assert shared["order"] == []
    assert room.stages[0]["reused"]


def test_one_failure_ends_all_and_one_tells() -> None:
    steps = [Step(f"a{i}", fails=i == 7) for i in range(40)]
    steps += [Step("after", after=(steps[7],))]
    _, ended, shared = work([steps], 4)
    told = [error for error in ended if isinstance(error, StageError)]
    assert [str(error) for error in told] == ["a7 fails"]
    others = [error for error in ended if error is not told[0]]
    assert all(isinstance(error, Ended) and error.kind == "StageError" for error in others)
    assert all(name != "after" for name, _ in shared["order"])


def test_a_failure_of_all_is_told_by_one() -> None:
    store = torch.distributed.HashStore()
    raised = []
    for rank in range(3):
        with pytest.raises((ConfigError, Ended)) as caught, Team(store, rank, 3).together():
            raise ConfigError("no such data set")
        raised.append(type(caught.value))
    assert sorted(kind.__name__ for kind in raised) == ["ConfigError", "Ended", "Ended"]


def test_a_failure_after_the_store_is_gone_is_not_told() -> None:
    class Gone:
        def add(self, key: str, by: int) -> int:
            raise torch.distributed.DistNetworkError("Broken pipe")

    with pytest.raises(Ended), Team(Gone(), 1, 2).together():
        raise ConfigError("no such data set")


def test_what_the_first_settles_holds_for_all() -> None:
    store = torch.distributed.HashStore()
    teams = [Team(store, rank, 2) for rank in range(2)]
    assert teams[0].settle("x", lambda: {"a": [1]}) == {"a": [1]}
    assert teams[1].settle("x", lambda: pytest.fail("asked the second")) == {"a": [1]}
    assert Team().settle("x", lambda: 3) == 3
    assert Team().gather("x", 4) == [4]


def test_hardware_that_rounds_differently_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from rcfast.eval import build
    from rcfast.eval.run import alike
    from rcfast.eval.run.store import Store

    class Two(Team):
        def gather(self, name: str, value: Any) -> list[Any]:
            return [value, {**value, "instruction set": "sse9"}]

    store = Store(tmp_path)
    with (
        pytest.raises(ConfigError, match=r"process 1 has another instruction set than process 0 \(sse9 and "),
        alike.alike(Two(), store, build("quick")),
    ):
        pass
    allowed = build("quick", settings=["mixed_hardware=true"])
    with alike.alike(Two(), store, allowed) as (_, said):
        assert "process 1 has another instruction set" in said[0]


def test_precision_is_what_it_is_for_the_first_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of processors that differ in bfloat16 units: votes, training and attacks of all take the first one's."""
    from rcfast import hardware
    from rcfast.eval import build
    from rcfast.eval.run import alike
    from rcfast.eval.run.inputs import resolved
    from rcfast.eval.run.store import Store

    cpu, agreed = torch.device("cpu"), {}

    class Second(Team):
        def settle(self, name: str, make: Any, waiting: Any = None) -> Any:
            return agreed.get(name, make())

        def gather(self, name: str, value: Any) -> list[Any]:
            return [{**value, alike.PRECISION: agreed["precision"]}, value]

    for first, second in (("bfloat16", False), ("float32", True)):
        agreed["precision"] = first
        monkeypatch.setattr(hardware, "bfloat16_units", lambda device, there=second: (there, "planted"))
        with (
            pytest.raises(
                ConfigError, match=f"another precision that `auto` means than process 0 .* and {first}"
            ),
            alike.alike(Second(), Store(tmp_path), build("quick", settings=['device="cpu"'])),
        ):
            pass
        config = build("quick", settings=["mixed_hardware=true", 'device="cpu"'])
        before = hardware.automatic_dtype(cpu)
        with alike.alike(Second(), Store(tmp_path), config) as (config, said):
            assert "another precision" in said[0]
            assert str(hardware.automatic_dtype(cpu)) == f"torch.{first}"
            assert resolved(config, cpu).vote.dtype == {"bfloat16": "auto"}.get(first, first)
        assert hardware.automatic_dtype(cpu) == before


def test_a_folder_keeps_the_threads_it_was_begun_with(tmp_path: Path) -> None:
    from rcfast.eval import build
    from rcfast.eval.run.alike import alike
    from rcfast.eval.run.begun import begin
    from rcfast.eval.run.store import Store

    store, before = Store(tmp_path), torch.get_num_threads()
    other = before + 1
    with alike(Team(), store, build("quick", settings=[f"threads={other}"])) as (config, _):
        assert torch.get_num_threads() == config.threads == other
        assert not (tmp_path / "store").exists()
        begin(tmp_path, config.threads, config.training_threads)
    assert torch.get_num_threads() == before
    kept = json.loads((tmp_path / "store" / "begun.json").read_text())
    assert kept == {"threads": other, "training_threads": other}
    with alike(Team(), store, build("quick")) as (config, _):
        assert config.threads == other


def test_a_network_takes_the_threads_of_those_who_have_none_to_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rcfast.eval import build
    from rcfast.eval.run import alike
    from rcfast.eval.run.begun import begin
    from rcfast.eval.run.store import Store

    class Four(Team):
        here = (0, 4)  # type: ignore[assignment]

        def settle(self, name: str, make: Any, waiting: Any = None) -> Any:
            return make()

        def gather(self, name: str, value: Any) -> list[Any]:
            return [value] * 4

    monkeypatch.setattr(alike, "cores", lambda: 8)

    def settled(out: Path, *settings: str) -> tuple[int, int]:
        with alike.alike(Four(size=4), Store(out), build("quick", settings=list(settings))) as (config, _):
            before = torch.get_num_threads()
            with alike.threads(config.training_threads):
                assert torch.get_num_threads() == config.training_threads
            assert torch.get_num_threads() == before == config.threads
            return config.threads, config.training_threads

    only = 'defences=["point","region"]'
    assert settled(tmp_path) == (2, 2), "three networks: four processes have two threads each"
    assert settled(tmp_path, only) == (2, 8)
    assert settled(tmp_path, only, "threads=1") == (1, 1), "decided beforehand: as one process would"
    assert settled(tmp_path, only, "threads=1", "training_threads=4") == (1, 4)
    begin(tmp_path, 2, 8)
    assert settled(tmp_path) == (2, 8), "a folder keeps both"
    assert settled(tmp_path, "threads=1") == (1, 1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
