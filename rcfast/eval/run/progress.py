"""What a run says while it works: a bar per stage on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TextIO

from tqdm import tqdm

Mode = Literal["auto", "bars", "lines", "quiet"]
_LINE_EVERY = 20.0  # seconds between two plain lines of one stage
UNLIKE = "parts"  # units that take a second or ten minutes: how many are left says nothing of the time


def duration(seconds: float) -> str:
    """Return seconds as people say them: 4.2 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Bar:
    """Progress of one stage in its own units."""

    def __init__(self, name: str, total: int, unit: str, mode: Mode, stream: TextIO) -> None:
        self.name, self.total, self.unit, self.mode, self.stream = name, total, unit, mode, stream
        self.done = 0
        self.note = ""
        self._start = self._last = time.monotonic()
        self._tqdm = (
            tqdm(
                total=total,
                desc=f"{name:<9}",
                unit=unit,
                file=stream,
                dynamic_ncols=True,
                leave=True,
                bar_format="{desc}: {n_fmt}/{total_fmt}|{bar}| {elapsed} {postfix}"
                if unit == UNLIKE
                else None,
            )
            if mode == "bars"
            else None
        )

    def say(self, note: str) -> None:
        """Show what is being worked on."""
        self.note = note
        if self._tqdm is not None:
            self._tqdm.set_postfix_str(note)
        self._line()

    def advance(self, count: int = 1) -> None:
        self.done += count
        if self._tqdm is not None:
            self._tqdm.update(count)
        self._line()

    def _line(self) -> None:
        now = time.monotonic()
        if self.mode != "lines" or now - self._last < _LINE_EVERY:
            return
        self._last = now
        spent = now - self._start
        left = ""
        if self.done and self.unit != UNLIKE:
            left = f", about {duration(spent / self.done * (self.total - self.done))} left"
        print(
            f"{self.name}: {self.done} of {self.total} {self.unit}{left}  {self.note}".rstrip(),
            file=self.stream,
            flush=True,
        )

    def close(self) -> None:
        if self._tqdm is not None:
            self._tqdm.set_postfix_str("")
            self._tqdm.close()


class Progress:
    """Where bars, lines and messages go.

    mode "auto": bars where the stream is a terminal, else lines.
    """

    def __init__(self, mode: Mode = "auto", stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        if mode == "auto":
            mode = "bars" if self.stream.isatty() else "lines"
        self.mode: Mode = mode

    def print(self, message: str) -> None:
        """Say one line above the bars."""
        if self.mode == "bars":
            tqdm.write(message, file=self.stream)
        elif self.mode == "lines":
            print(message, file=self.stream, flush=True)

    @contextmanager
    def stage(self, name: str, total: int, unit: str = "parts") -> Iterator[Bar]:
        """Show one stage; say at its end how long it took."""
        bar = Bar(name, total, unit, self.mode, self.stream)
        start = time.monotonic()
        if self.mode == "lines":
            print(f"{name}: {total} {unit}", file=self.stream, flush=True)
        try:
            yield bar
        finally:
            bar.close()
        if self.mode == "lines":
            print(f"{name}: done in {duration(time.monotonic() - start)}", file=self.stream, flush=True)
