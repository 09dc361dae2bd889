"""What a folder keeps of the run that began it: the number of threads, which decides the last bits of its parts."""

import json
from pathlib import Path
from typing import Any

from rcfast.eval.run.store import write_atomic


def threads_of(out: Path) -> int:
    """Return with how many threads the folder was begun; 0 for a new one."""
    try:
        found: dict[str, Any] = json.loads(_path(out).read_text())
        return int(found.get("threads", 0))
    except (OSError, ValueError):
        return 0


def begin(out: Path, threads: int) -> None:
    """Note in the folder with how many threads it was begun."""
    if threads_of(out) != threads:
        write_atomic(_path(out), json.dumps({"threads": threads}) + "\n")


def _path(out: Path) -> Path:
    return out / "store" / "begun.json"
