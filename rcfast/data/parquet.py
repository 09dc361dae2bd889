"""Tables of Parquet with the bytes of images and their labels, as data sets of the Hugging Face hub are laid out."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..decoding import Preparation
from .folder import CALLED, arranged, common, numbered
from .images import Sources, decoded
from .splits import Dataset, Split, Wanted, check_all_there

PARTS = {name: part for part, names in CALLED.items() for name in names}
PART = re.compile(rf"(?<![a-z])({'|'.join(PARTS)})(?![a-z])")
LABELS = ("label", "labels", "fine_label", "target", "class")
SEEN = 64  # images whose size is looked at where no network says it


def is_parquet(path: Path) -> bool:
    """Whether a path is a table, or a folder that holds some."""
    return path.suffix == ".parquet" or (path.is_dir() and bool(_tables(path)))


def load_parquet(path: Path, wanted: Wanted, preparation: Preparation | None) -> Dataset:
    """The data set of a file `.parquet`, or of all in a folder, parted by `train`, `val` and `test` in their names.

    Images stand in a column of bytes, or of {bytes, path}; labels in a column of integers, named by the schema where
    it is of the `datasets` library. Raises ValueError that names the file and its fault, ImportError without pyarrow.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError(f"{path}: reading Parquet needs pyarrow (pip install 'rcfast[parquet]')") from error
    parts: dict[str, list[Path]] = {}
    for table in [path] if path.is_file() else _tables(path):
        parts.setdefault(_part(table, path), []).append(table)
    first = parquet.ParquetFile(next(iter(parts.values()))[0])
    image, label = _columns(first.schema_arrow, path)
    images, labels = {}, {}
    for part, tables in parts.items():
        opened = {table: parquet.ParquetFile(table) for table in tables}
        rows = [
            (str(table), group, row)
            for table, file in opened.items()
            for group in range(file.num_row_groups)
            for row in range(file.metadata.row_group(group).num_rows)
        ]
        identity = [[str(t), t.stat().st_size, t.stat().st_mtime_ns] for t in tables]
        images[part] = Sources(rows, identity, image)
        read = [file.read(columns=[label])[label].to_pylist() for file in opened.values()]
        labels[part] = [value for values in read for value in values]
    names = _names(first.schema_arrow, label, labels, path)
    order, classes = numbered(names, wanted.classes, str(path))
    if wanted.classes is None and not wanted.some_classes:
        trained = torch.tensor(labels.get("train", next(iter(labels.values()))))
        check_all_there(trained, len(names), f"{path}: column {label} of the training examples")
    if preparation is None:
        heads = [
            head
            for tables in parts.values()
            for head in _heads(parquet.ParquetFile(tables[0]), image, tables[0])
        ]
        preparation = common(path, [f"row {k}" for k in range(len(heads))], heads, wanted.size)
    splits = {}
    for part, sources in images.items():
        x = decoded(
            f"{path.stem}-{part}" if part else path.stem, sources, preparation, progress=wanted.progress
        )
        splits[part] = Split(x, torch.tensor([order[value] for value in labels[part]]))
    return arranged(path.stem, splits, wanted, classes)


def _tables(path: Path) -> list[Path]:
    found = sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))
    return found or sorted(path.glob("*/*.parquet"))


def _part(table: Path, path: Path) -> str:
    """The part of the data set that a file's name, or its folder's, says it is; "" where none does."""
    relative = table.name if table == path else str(table.relative_to(path))
    found = PART.search(relative.lower())
    return PARTS[found[1]] if found else ""


def _columns(schema: Any, path: Path) -> tuple[str, str]:
    """The columns of images and of labels."""
    import pyarrow.types as types

    def holds_images(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(field.name == "bytes" and types.is_binary(field.type) for field in kind)
        return types.is_binary(kind) or types.is_large_binary(kind)

    images = [field.name for field in schema if holds_images(field.type)]
    numbers = [field.name for field in schema if types.is_integer(field.type)]
    named = [name for name in LABELS if name in schema.names]
    labels = [name for name in named if name in numbers][:1] or ([] if named else numbers)
    for what, found in (("images, as bytes or {bytes, path}", images), ("labels, as integers", labels)):
        if len(found) != 1:
            columns = ", ".join(f"{field.name}: {field.type}" for field in schema)
            raise ValueError(f"{path}: one column must hold {what}, got {len(found)} such of {columns}")
    return images[0], labels[0]


def _names(schema: Any, label: str, labels: dict[str, list[int]], path: Path) -> Sequence[str]:
    """The names of labels 0 … L−1: those in the schema, else their numbers."""
    told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    names = told.get("info", {}).get("features", {}).get(label, {}).get("names")
    every = [value for values in labels.values() for value in values]
    if any(value is None or value < 0 for value in every):
        raise ValueError(
            f"{path}: column {label} must hold labels of 0 or more, got {min(v or -1 for v in every)}"
        )
    count = max(every) + 1
    if names is None:
        return [str(k) for k in range(count)]
    if count > len(names):
        raise ValueError(f"{path}: column {label} has the label {count - 1}, but {len(names)} names")
    return list(names)


def _heads(file: Any, column: str, path: Path) -> list[tuple[int, int, bool]]:
    heads = []
    for value in file.read_row_group(0, columns=[column])[column][:SEEN].to_pylist():
        data = value["bytes"] if isinstance(value, dict) else value
        try:
            with Image.open(io.BytesIO(data)) as image:
                heads.append((image.height, image.width, image.mode in ("1", "L")))
        except OSError as error:
            raise ValueError(f"{path}, row {len(heads)}: cannot be decoded ({error})") from error
    return heads
