"""The processes of one run: torchrun starts and restarts them, a store of torch.distributed tells them apart.

Every process plans the same units of work. The store counts who asks for a unit first, and lists what is finished, so
that the next unit goes to whoever is free. Results travel through the folder that all processes see. When a process
dies torchrun starts all of them anew, with an empty store; finished units are found in the folder.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from rcfast.eval.run.config import ConfigError

T = TypeVar("T")
_LOOK = 0.05  # seconds after which a process that waits looks up
_JOIN = timedelta(minutes=10)  # for the others to arrive


class Ended(RuntimeError):
    """Another process of the run has failed, and has said why; `kind` is the class of its error."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"another process of this run ended with a {kind}")
        self.kind = kind


@dataclass(frozen=True)
class News:
    """A unit that some process has finished: its place in the plan, its seconds, whether it was there already."""

    index: int
    seconds: float
    reused: bool


class Team:
    """What one process knows of the others; `Team()` is a run of one process."""

    def __init__(self, store: Any = None, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size, self._store = rank, size, store
        self._plans = 0

    @classmethod
    def join(cls) -> Team:
        """Return the team that torchrun (or RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT) has formed.

        Raises ConfigError when the others can not be reached.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        from torch.distributed.rendezvous import rendezvous

        try:
            store, rank, size = next(rendezvous("env://", timeout=_JOIN))
            return cls(fresh(store, rank, size), rank, size)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"the other processes cannot be reached: {str(error).splitlines()[0]}"
            ) from error

    @property
    def leads(self) -> bool:
        """Whether this is the process that shows progress, settles what all must agree on, and tabulates."""
        return self.rank == 0

    @property
    def here(self) -> tuple[int, int]:
        """(rank, number) of the processes on this host."""
        if self._store is None:
            return 0, 1
        return int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    def settle(self, name: str, make: Callable[[], T], *, waiting: Callable[[], None] = lambda: None) -> T:
        """Return what `make` returns on the leading process, JSON-able. waiting: called while it is not there yet."""
        if self._store is None:
            return make()
        if self.leads:
            value = make()
            self._store.set(f"settled/{name}", json.dumps(value))
            return value
        self.wait(f"settled/{name}", waiting)
        told: T = json.loads(self._store.get(f"settled/{name}"))
        return told

    def gather(self, name: str, value: Any) -> list[Any]:
        """Return the JSON-able values of all processes, by rank."""
        if self._store is None:
            return [value]
        self._store.set(f"{name}/{self.rank}", json.dumps(value))
        found = []
        for rank in range(self.size):
            self.wait(f"{name}/{rank}")
            found.append(json.loads(self._store.get(f"{name}/{rank}")))
        return found

    def leave(self) -> None:
        """End the run: the first process, which may hold the store, goes last."""
        if self._store is None:
            return
        if not self.leads:
            self._store.set(f"left/{self.rank}", "")
            return
        for rank in range(1, self.size):
            self.wait(f"left/{rank}")

    def check(self) -> None:
        """Raise Ended if another process has failed."""
        if self._store is not None and self._store.check(["failed"]):
            raise Ended(self._store.get("failed").decode())

    def plan(self) -> Claims:
        """Who does what of the next plan, the same plan on every process."""
        self._plans += 1
        return Claims(self, self._store, f"plan/{self._plans}")

    @contextmanager
    def together(self) -> Iterator[None]:
        """Tell the others of a failure inside, so that they end too; what all fail with, one of them raises."""
        try:
            yield
        except Exception as error:
            if self._store is None or isinstance(error, Ended):
                raise
            try:
                first = self._store.add("failing", 1) == 1
                if first:
                    self._store.set("failed", type(error).__name__)
            except RuntimeError:  # the process that held the store has failed, and told why
                raise Ended("lost connection") from error
            if first:
                raise
            raise Ended(type(error).__name__) from error

    def wait(self, key: str, waiting: Callable[[], None] = lambda: None) -> None:
        """Wait for a key of the store. waiting: called meanwhile. Raises Ended."""
        try:
            while not self._store.check([key]):
                self.check()
                waiting()
                time.sleep(_LOOK)
        except RuntimeError as error:
            if isinstance(error, Ended):
                raise
            raise Ended("lost connection") from error


def fresh(store: Any, rank: int, size: int) -> Any:
    """Return the store without what an earlier attempt has left in it: torchrun keeps one for all its restarts.

    The first process names the attempt. Another one says hello by a name of its own and is answered by it, for it must
    not take the name of an attempt that has ended; what dead processes said is answered in vain. Raises RuntimeError
    when somebody stays away.
    """
    from torch.distributed import PrefixStore

    own, end = uuid.uuid4().hex, time.monotonic() + _JOIN.total_seconds()
    others, attempt = range(1, size), None
    while attempt is None:
        if rank == 0:
            for other in others:
                if store.check([f"hello/{other}"]):
                    store.set(f"welcome/{other}", f"{store.get(f'hello/{other}').decode()} {own}")
            attempt = own if all(store.check([f"{own}/{other}"]) for other in others) else None
        else:
            store.set(f"hello/{rank}", own)
            said = store.get(f"welcome/{rank}").decode() if store.check([f"welcome/{rank}"]) else ""
            if said.startswith(own):
                attempt = said.split()[1]
                store.set(f"{attempt}/{rank}", "")
        if attempt is None:
            if time.monotonic() > end:
                raise RuntimeError("not all of them have come")
            time.sleep(_LOOK)
    return PrefixStore(attempt, store)


class Claims:
    """Who does what of one plan, whose units all processes number alike."""

    def __init__(self, team: Team, store: Any, name: str) -> None:
        self._team, self._store, self._name = team, store, name
        self._heard = 0

    def claim(self, index: int) -> bool:
        """Whether the unit with this number is this process's to do: true for one process, once."""
        return bool(self._store.add(f"{self._name}/claim/{index}", 1) == 1)

    def tell(self, news: News) -> None:
        """Say that a unit is finished and in the folder."""
        place = self._store.add(f"{self._name}/finished", 1)
        self._store.set(self._news(place), json.dumps([news.index, news.seconds, news.reused]))

    def news(self, *, wait: bool) -> Iterator[News]:
        """Yield what was told since the last call; wait: until there is some. Raises Ended."""
        self._team.check()
        if wait:
            self._team.wait(self._news(self._heard + 1))
        while self._store.check([self._news(self._heard + 1)]):
            self._heard += 1
            yield News(*json.loads(self._store.get(self._news(self._heard))))

    def _news(self, place: int) -> str:
        return f"{self._name}/news/{place}"


def patiently(find: Callable[[], T | None], seconds: float) -> T | None:
    """Return what `find` returns, asked again until it is something: a shared folder may show files late."""
    end = time.monotonic() + seconds
    while (found := find()) is None and time.monotonic() < end:
        time.sleep(0.2)
    return found
