"""Files that are never half-written."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


def _write(file: BinaryIO, content: bytes) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """After a crash at any moment, `path` holds its old content or all of the new; an OSError leaves nothing else."""
    path = Path(path)
    part = path.with_name(
        f".{path.name}.part"
    )  # one fixed name: what a killed run left is overwritten by the next
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            _write(file, content)
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        error.filename = error.filename or os.fspath(path)  # a failing write does not say where
        raise
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
