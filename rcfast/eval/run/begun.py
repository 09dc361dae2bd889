"""What a folder keeps of the run that began it: the numbers of threads, which decide the last bits of its parts."""

import json
from pathlib import Path
from typing import Any

from rcfast.eval.run.store import write_atomic


def threads_of(out: Path) -> tuple[int, int]:
    """Return with how many threads, and how many of a process that trains, the folder was begun; 0, 0 for a new one."""
    try:
        found: dict[str, Any] = json.loads(_path(out).read_text())
        threads = int(found.get("threads", 0))
        return threads, int(found.get("training_threads", threads))
    except (OSError, ValueError):
        return 0, 0


def begin(out: Path, threads: int, training: int) -> None:
    """Note in the folder with how many threads it was begun."""
    if threads_of(out) != (threads, training):
        write_atomic(_path(out), json.dumps({"threads": threads, "training_threads": training}) + "\n")


def _path(out: Path) -> Path:
    return out / "store" / "begun.json"
