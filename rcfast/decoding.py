"""Images from files to 8-bit arrays, as worker processes do it: nothing of torch is imported here."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import queue
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from rcfast.cores import cores

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
DEEP = ("I", "I;16", "I;16B", "I;16L", "F")  # modes of more than 8 bits, which PIL would cut off
GREY = ("1", "L")
DIGEST = 32  # bytes of a SHA-256


@dataclass(frozen=True)
class Preparation:
    """How images become arrays, as a network's own metadata say.

    height, width: of the centre that is cut out; resize: what the image is resized to before, its shorter side or
    (height, width); 0 leaves it as it is. interpolation: a name of RESAMPLING. channels: 1 or 3. seen: chosen after a
    look at some of the images, so that another size, where nothing is resized, or colours beside grey are refused.
    """

    height: int
    width: int
    resize: int | tuple[int, int] = 0
    interpolation: str = "bilinear"
    channels: int = 3
    seen: bool = False

    def __post_init__(self) -> None:
        if self.interpolation not in RESAMPLING:
            raise ValueError(
                f"interpolation must be one of {', '.join(RESAMPLING)}, got {self.interpolation!r}"
            )
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {self.channels}")

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width

    def __call__(self, image: Image.Image) -> np.ndarray:
        """The image as uint8 [C,H,W]. Raises ValueError for one of more than 8 bits, or smaller than the centre."""
        deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))  # opened as RGB, and cut off
        if image.mode in DEEP or deep:
            raise ValueError(f"has more than 8 bits a channel (mode {image.mode}): convert it first")
        if self.seen and not self.resize and image.size != (self.width, self.height):
            other = f"is {image.width}×{image.height} pixels, where others are {self.width}×{self.height}"
            raise ValueError(
                f"{other}: say to which size they are resized (data.size), or name a network that says it"
            )
        if self.seen and self.channels == 1 and image.mode not in GREY:
            raise ValueError(f"has colours (mode {image.mode}), where others are grey: convert them first")
        image = image.convert("RGB" if self.channels == 3 else "L")
        if self.resize:
            size = self._resized(image.size) if isinstance(self.resize, int) else self.resize[::-1]
            image = image.resize(size, RESAMPLING[self.interpolation])
        left, top = (image.width - self.width) / 2, (image.height - self.height) / 2
        if min(left, top) < 0:
            raise ValueError(f"is {image.width}×{image.height} pixels, less than {self.width}×{self.height}")
        left, top = round(left), round(top)
        array = np.asarray(image.crop((left, top, left + self.width, top + self.height)))
        return array[None] if self.channels == 1 else np.moveaxis(array, 2, 0)

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) with the shorter side at `resize`; the longer one in whole pixels, as torchvision has it."""
        assert isinstance(self.resize, int)
        short, long = min(size), max(size)
        other = int(self.resize * long / short)
        return (self.resize, other) if size[0] <= size[1] else (other, self.resize)


@dataclass(frozen=True)
class Part:
    """Some images of a set, to be written into one file: paths, or rows of a table of Parquet.

    sources: paths of images; or (path of the table, row group, row) with `column` the one that holds the bytes.
    """

    target: str
    sources: tuple[Any, ...]
    preparation: Preparation
    column: str = ""


def write(part: Part) -> None:
    """Write a part: `target`, uint8 [n,C,H,W], and beside it a SHA-256 of every image; whole or not at all."""
    target = Path(part.target)
    shape = (len(part.sources), *part.preparation.shape)
    beside = target.with_suffix(f".{os.getpid()}.part")
    array = np.lib.format.open_memmap(beside, "w+", np.uint8, shape)
    try:
        digests = np.zeros((len(part.sources), DIGEST), np.uint8)
        for row, (name, data) in enumerate(_read(part)):
            array[row] = decode(name, data, part.preparation)
            digests[row] = np.frombuffer(hashlib.sha256(array[row].tobytes()).digest(), np.uint8)
        array.flush()
        del array
        np.save(target.with_suffix(".sha256.npy"), digests)
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


def decode(name: str, data: Any, preparation: Preparation) -> np.ndarray:
    """An image, from its bytes or the path of a file, prepared. Raises ValueError that names it and its fault."""
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            return preparation(image)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise ValueError(f"{name}: cannot be decoded ({error})") from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def seen(source: str) -> tuple[int, int, bool]:
    """(height, width, whether it is grey) of an image file, from its head."""
    try:
        with Image.open(source) as image:
            return image.height, image.width, image.mode in GREY
    except (OSError, UnidentifiedImageError) as error:
        raise ValueError(f"{source}: cannot be decoded ({error})") from error


def _read(part: Part) -> Any:
    if not part.column:
        yield from ((str(source), source) for source in part.sources)
        return
    table, group, values = "", -1, None
    for path, wanted, row in part.sources:
        if (path, wanted) != (table, group):
            table, group = path, wanted
            values = _column(path, wanted, part.column)
        yield f"{path}, row {row} of row group {group}", values[row]  # type: ignore[index]


def _column(path: str, group: int, column: str) -> list[bytes]:
    import pyarrow.parquet as parquet

    values = parquet.ParquetFile(path).read_row_group(group, columns=[column])[column].to_pylist()
    return [value["bytes"] if isinstance(value, dict) else value for value in values]


def in_processes(
    function: Callable[[Any], Any],
    tasks: Sequence[Any],
    advance: Callable[[int], object] = lambda index: None,
) -> list[Any]:
    """The results of a function of this module for all tasks, on all cores; `advance` hears of each that is done.

    In processes of our own: multiprocessing would run the user's script again in each, or fork torch's threads.
    """
    workers = min(len(tasks), cores())
    if workers <= 1:
        return [_told(function(task), advance, index) for index, task in enumerate(tasks)]
    free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    hired = [_Worker() for _ in range(workers)]
    for worker in hired:
        free.put(worker)

    def ask(task: Any) -> Any:
        worker = free.get()
        try:
            return worker.ask(function.__name__, task)
        finally:
            free.put(worker)

    pool = ThreadPoolExecutor(workers)
    try:
        return [_told(result, advance, index) for index, result in enumerate(pool.map(ask, tasks))]
    finally:
        for worker in hired:
            worker.end()
        pool.shutdown(wait=True, cancel_futures=True)


class _Worker:
    """A process that calls functions of this module."""

    def __init__(self) -> None:
        code = f"import sys; sys.path[:] = {sys.path!r}; from rcfast.decoding import serve; serve()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def ask(self, name: str, task: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump((name, task), self._process.stdin)
            self._process.stdin.flush()
            result = pickle.load(self._process.stdout)
        except (EOFError, OSError) as error:
            raise OSError(
                f"a process that decodes images has died (exit code {self._process.wait()})"
            ) from error
        if isinstance(result, BaseException):
            raise result
        return result

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


def serve() -> None:
    """Answer (name of a function, task) after (name of a function, task) from the standard input, until it ends."""
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    while True:
        try:
            name, task = pickle.load(source)
        except EOFError:
            return
        try:
            result = globals()[name](task)
        except Exception as error:  # told where it was asked
            result = error
        pickle.dump(result, target)
        target.flush()


def _told(result: Any, advance: Callable[[int], object], index: int) -> Any:
    advance(index)
    return result


def rows_of_a_part(images: int, bytes_of_one: int) -> int:
    """How many images go into one file: at most 64 MiB of them, and some 256 files where there are many images."""
    return max(1, min(max(64, images // 256), (64 << 20) // bytes_of_one))
