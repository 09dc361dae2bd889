"""Finished parts of a run on disk: found by their inputs, never half-written, checked when read.

A part is `<stage>/<key>.npz` (or `.safetensors` for weights) with `<key>.json` beside it. The JSON is written
last and holds the data file's sha256: a part without it does not exist, and one whose data does not match is
reported, removed and computed again.
"""

import errno
import fcntl
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from rcfast.files import write_atomically

Arrays = dict[str, np.ndarray]
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class StoreError(RuntimeError):
    """A folder that cannot be used; the message says what to do."""


def digest(value: Any) -> str:
    """Return the hex sha256 of a JSON-able value, the same in any order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the hex sha256 of names, dtypes, shapes and bytes."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        total.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write beside `path` and rename, so that the file is the old or the new one whole.

    Raises StoreError when the disk is full; nothing is left behind then.
    """
    try:
        write_atomically(path, data.encode() if isinstance(data, str) else data)
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise StoreError(
                f"no space left while writing {path}; free some and run the same command again: "
                "it continues after the last finished part"
            ) from error
        raise StoreError(f"cannot write {path}: {error.strerror}") from error


# A fork that draws would hold the lock as long as it lives, past the end of a killed run: it keeps no copy.
_locks: set[IO[str]] = set()
os.register_at_fork(after_in_child=lambda: [lock.close() for lock in _locks])


@dataclass(frozen=True)
class Part:
    """What the JSON beside a part says. `info` holds small results that need no array."""

    stage: str
    key: str
    path: Path  # the data file
    digest: str  # of the content, not of the file: what later keys are made from
    seconds: float
    inputs: dict[str, Any]
    info: dict[str, Any]


class Store:
    """The parts of one output folder.

    report: is told about every corrupt part (default: nobody). readonly: nothing is written or removed, so that
    no lock is needed; a corrupt part counts as missing and stays.
    """

    def __init__(
        self, root: Path, *, report: Callable[[str], None] | None = None, readonly: bool = False
    ) -> None:
        self.root = root
        self.readonly = readonly
        self._report = report or (lambda message: None)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out of the folder. The kernel drops the lock of a process that dies.

        Raises StoreError when another run holds it.
        """
        path = self.root / ".lock"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            handle = open(path, "a+")  # noqa: SIM115  (held open for as long as the lock)
        except OSError as error:
            raise StoreError(f"cannot write into {self.root}: {error.strerror}") from error
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                handle.seek(0)
                holder = handle.read().strip() or "unknown"
                raise StoreError(
                    f"another run (process {holder}) is writing into {self.root}; "
                    "wait for it or give another --out"
                ) from error
            with suppress(OSError):  # only informs; a full disk is told by the first real write
                handle.truncate(0)
                handle.write(str(os.getpid()))
                handle.flush()
            self._sweep()
            _locks.add(handle)
            try:
                yield
            finally:
                _locks.remove(handle)

    def _sweep(self) -> None:
        """Remove what killed runs left half-written; only called under the lock."""
        for path in self.root.rglob(".*.part"):
            with suppress(OSError):
                path.unlink()

    def key(self, stage: str, inputs: Mapping[str, Any]) -> str:
        """Return the name of the part that these inputs lead to."""
        return digest({"stage": stage, "inputs": inputs})[:24]

    def _files(self, stage: str, key: str, suffix: str) -> tuple[Path, Path]:
        folder = self.root / "store" / stage
        return folder / f"{key}.json", folder / f"{key}{suffix}"

    def path(self, stage: str, inputs: Mapping[str, Any], suffix: str = ".npz") -> Path:
        """Return where the data of a part lies or will lie."""
        return self._files(stage, self.key(stage, inputs), suffix)[1]

    def find(self, stage: str, inputs: Mapping[str, Any], suffix: str = ".npz") -> Part | None:
        """Return the part if it was finished, without reading its data."""
        key = self.key(stage, inputs)
        sidecar, data = self._files(stage, key, suffix)
        try:
            said = json.loads(sidecar.read_text())
            part = Part(stage, key, data, said["digest"], said["seconds"], said["inputs"], said["info"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            self.discard(stage, key, suffix, "its description cannot be read")
            return None
        return part if data.exists() else None

    def check(self, part: Part) -> bytes | None:
        """Return a part's data if the bytes are those once written; else report, remove, return None."""
        sidecar = part.path.with_suffix(".json")
        try:
            data = part.path.read_bytes()
            if hashlib.sha256(data).hexdigest() == json.loads(sidecar.read_text())["sha256"]:
                return data
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self.discard(part.stage, part.key, part.path.suffix, "its content does not match its sha256")
        return None

    def load(self, part: Part) -> Arrays | None:
        """Return the arrays of a part, or None (reported, removed) when it is corrupt."""
        data = self.check(part)
        if data is None:
            return None
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def save(
        self,
        stage: str,
        inputs: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray],
        *,
        seconds: float = 0.0,
        info: Mapping[str, Any] | None = None,
        content: str | None = None,
    ) -> Part:
        """Write a finished part. Raises StoreError when the disk is full.

        content: the digest for later keys (default: of all arrays).
        """
        self._refuse_if_readonly()
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        write_atomic(self.path(stage, inputs), buffer.getvalue())
        content = content or digest_arrays(arrays)
        return self.adopt(stage, inputs, content, seconds=seconds, info=info)

    def adopt(
        self,
        stage: str,
        inputs: Mapping[str, Any],
        content: str,
        *,
        suffix: str = ".npz",
        seconds: float = 0.0,
        info: Mapping[str, Any] | None = None,
    ) -> Part:
        """Declare a data file already in its place finished; `content` is the digest for later keys."""
        self._refuse_if_readonly()
        key = self.key(stage, inputs)
        sidecar, data = self._files(stage, key, suffix)
        said: dict[str, Any] = {
            "digest": content,
            "sha256": hashlib.sha256(data.read_bytes()).hexdigest(),
            "seconds": round(seconds, 3),
            "inputs": dict(inputs),
            "info": dict(info or {}),
        }
        write_atomic(sidecar, json.dumps(said, indent=1, sort_keys=True) + "\n")
        return Part(stage, key, data, content, seconds, said["inputs"], said["info"])

    def discard(self, stage: str, key: str, suffix: str, why: str) -> None:
        """Remove a part that cannot be used, and say so."""
        if self.readonly:
            return
        self._report(f"part {stage}/{key} is corrupt ({why}); it is computed again")
        for path in self._files(stage, key, suffix):
            with suppress(OSError):
                path.unlink()

    def _refuse_if_readonly(self) -> None:
        if self.readonly:
            raise StoreError(f"{self.root} was opened for reading only")
