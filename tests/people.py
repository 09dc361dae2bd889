"""What people have of other libraries: a data set as the Hugging Face hub lays it out, a classifier of transformers."""

import io
import json
from pathlib import Path
from typing import Any

import photographs
import pytest
import torch
from PIL import Image


def as_bytes(image: Image.Image) -> bytes:
    held = io.BytesIO()
    image.save(held, "png")
    return held.getvalue()


def write_table(
    path: Path, labels: list[int], *, struct: bool = True, seed: int = 0, named: bool = True, side: int = 24
) -> None:
    """A table of Parquet with a crop of a photograph for each label; skips the test without pyarrow."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    images = [photographs.crop(photographs.CLASSES[y], seed + k, side) for k, y in enumerate(labels)]
    content = [as_bytes(image) for image in images]
    column = [{"bytes": value, "path": None} for value in content] if struct else content
    made = pa.table({"image": column, "label": pa.array(labels, pa.int64())})
    if named:
        features = {"label": {"names": list(photographs.CLASSES), "_type": "ClassLabel"}}
        made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(made, path, row_group_size=5)


def write_hub(folder: Path) -> None:
    """A data set in shards, train and test."""
    for shard in (0, 1):
        write_table(
            folder / f"data/train-0000{shard}-of-00002.parquet", [k % 4 for k in range(24)], seed=100 * shard
        )
    write_table(folder / "data/test-00000-of-00001.parquet", [k % 4 for k in range(12)], seed=500)


def write_vit(
    folder: Path, names: tuple[str, ...] = photographs.CLASSES, **processing: Any
) -> tuple[Any, Any]:
    """A small ViT for images of 32×32, untrained, with its processor; both are returned. Skips without transformers."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ViTConfig(image_size=32, patch_size=8, id2label=dict(enumerate(names)), **sizes)
    network = transformers.ViTForImageClassification(config).eval()
    network.save_pretrained(folder)
    processor = transformers.ViTImageProcessor(
        **{"size": {"height": 32, "width": 32}, "resample": 2, **processing}
    )
    processor.save_pretrained(folder)
    return network, processor
