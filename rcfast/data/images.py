"""Images that stay on disk: decoded once by worker processes into memory-mapped files, read when they are asked for."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import mmap
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..decoding import DIGEST, Part, Preparation, in_processes, rows_of_a_part, write
from ..files import write_atomically

READ = 128 << 20  # bytes of float32 images that are read together
VERSION = 1  # of what is kept: raised when equal sources would be decoded into other pixels


class Images:
    """Examples [N,C,H,W] float32 in [0,1] that lie on disk as 8-bit arrays: what `Split.x` may be instead of a tensor.

    An index, a slice or a tensor of indices reads these rows as a tensor; `split` reads them piece by piece. `rows`
    [N] int64 picks and orders; `files` hold the images one after the other, `digests` [all, 32] a SHA-256 of each;
    `device`: where the tensors are.
    """

    dtype, ndim = torch.float32, 4

    def __init__(
        self,
        files: Sequence[np.ndarray],
        digests: np.ndarray,
        rows: np.ndarray,
        device: torch.device | str = "cpu",
    ) -> None:
        self._files, self._digests, self._rows, self.device = files, digests, rows, torch.device(device)
        self._starts = np.cumsum([0, *(len(file) for file in files)])
        self.shape = torch.Size([len(rows), *files[0].shape[1:]])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int | slice | Tensor | np.ndarray) -> Tensor:
        if isinstance(index, int):
            return self[np.array([index])][0]
        rows = self._rows[index.cpu().numpy() if isinstance(index, Tensor) else index]
        out = torch.empty(len(rows), *self.shape[1:], device="cpu")
        file = np.searchsorted(self._starts, rows, side="right") - 1
        for k in np.unique(file):
            mine = np.flatnonzero(file == k)
            pixels = np.ascontiguousarray(self._files[k][rows[mine] - self._starts[k]])
            _release(self._files[k])
            out[torch.from_numpy(mine)] = torch.from_numpy(pixels).to(torch.float32).div_(255)
        return out.to(self.device)

    def take(self, index: np.ndarray) -> Images:
        """The images at these places, still on disk."""
        return Images(self._files, self._digests, self._rows[index], self.device)

    def read_to(self, device: torch.device | str) -> Images:
        """The same images, still on disk, read to a device."""
        return Images(self._files, self._digests, self._rows, device)

    def split(self, size: int) -> Iterator[Tensor]:
        """All rows as tensors of at most `size`, as torch.Tensor.split."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """All rows as a tensor in memory: for sets of which that is asked."""
        return self[:].to(*args, **kwargs)

    @property
    def digest(self) -> bytes:
        """SHA-256 over the pixels of all rows in their order, through that of each."""
        return hashlib.sha256(np.ascontiguousarray(self._digests[self._rows]).data).digest()


def _release(file: np.ndarray) -> None:
    """Let go of the pages of a mapped file; they stay in the system's cache, and count as this process's no longer.

    Else all that was ever read would: 8.1 GB after a pass over 50,000 images of 224×224.
    """
    if isinstance(file.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        file.base.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True)
class Sources:
    """Where images come from: paths of files, or rows of tables of Parquet with the column that holds their bytes.

    identity: what tells whether they are still the same: size and time of the files. count: of all images.
    """

    items: Sequence[Any]
    identity: Sequence[Any]
    column: str = ""


def decoded(name: str, sources: Sources, preparation: Preparation, *, progress: bool = False) -> Images:
    """The images, decoded into the user's cache where they are not there yet.

    Each file of the cache is written whole or not at all: a call after an interruption goes on. Raises ValueError
    that names an image which cannot be decoded, OSError where there is no room.
    """
    told = json.dumps([VERSION, asdict(preparation), sources.column, list(sources.identity)])
    folder = cache_root() / "decoded" / f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"
    count, size = len(sources.items), math.prod(preparation.shape)
    rows = rows_of_a_part(count, size)
    parts = [
        Part(
            str(folder / f"part-{start:08}.npy"),
            tuple(sources.items[start : start + rows]),
            preparation,
            sources.column,
        )
        for start in range(0, count, rows)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be decoding the same
        _complete(folder, parts, told, progress=progress)
    files = [np.load(part.target, mmap_mode="r") for part in parts]
    digests = [np.load(Path(part.target).with_suffix(".sha256.npy")) for part in parts]
    return Images(files, np.concatenate(digests).reshape(-1, DIGEST), np.arange(count))


def _complete(folder: Path, parts: Sequence[Part], told: str, *, progress: bool) -> None:
    """Decode the parts that are not there yet."""
    todo = [part for part in parts if not Path(part.target).is_file()]
    if todo:
        for killed in folder.glob("*.part"):
            killed.unlink()
        left = sum(len(part.sources) for part in todo)
        _check_room(folder, left * math.prod(parts[0].preparation.shape))
        write_atomically(folder / "about.json", told.encode())
        total = sum(len(part.sources) for part in parts)
        with tqdm(
            total=total,
            initial=total - left,
            desc=f"decoding {folder.name}",
            unit="image",
            disable=not progress,
        ) as bar:
            in_processes(write, todo, lambda index: bar.update(len(todo[index].sources)))


def _check_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OSError(
            errno.ENOSPC,
            f"decoded images take {size / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; XDG_CACHE_HOME moves them",
            str(folder),
        )


def cache_root() -> Path:
    """`rcfast` in the user's cache folder (XDG)."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path in the variable is to be ignored.
    return (Path(cache) if os.path.isabs(cache) else Path.home() / ".cache") / "rcfast"


def rows_in_memory(shape: Sequence[int], most: int) -> int:
    """How many examples of this shape (C,H,W) are read and voted on together: at most `most`, and 128 MB of them."""
    return max(1, min(most, READ // (4 * math.prod(shape))))
