"""What torchvision, timm and transformers say about their networks, and how they build them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..decoding import Preparation

KINDS = ("torchvision", "timm", "hf")
UNTRAINED = "none"
# What transformers' processors do that their files do not say: whether a size that is one number is the shorter side,
# and whether the centre is cut out by default.
PROCESSORS = {
    **dict.fromkeys(("ViT", "Beit", "EfficientNet", "Pvt", "Segformer", "Siglip"), (False, False)),
    **dict.fromkeys(("Bit", "CLIP", "MobileNetV1", "MobileNetV2"), (True, True)),
    "DeiT": (False, True),
    "ConvNext": (True, False),
}
CONVNEXT_CROP = 224 / 256  # of ConvNext below 384 pixels
BY_NUMBER = dict(
    enumerate(("nearest", "lanczos", "bilinear", "bicubic"))
)  # PIL's, as transformers writes them


@dataclass(frozen=True)
class Metadata:
    """What a source says about a network without building it.

    preparation: how its images are made; mean, std: of each channel, in [0,1]; classes: names of its labels, where
    they are known.
    """

    source: str
    preparation: Preparation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Library:
    """A library of networks: what it says about one, and how it builds it."""

    metadata: Callable[[str, str], Metadata]
    build: Callable[..., nn.Module]


def library(source: str) -> Library:
    """The library of a source. Raises ValueError for one of none."""
    kind, _, name = source.partition(":")
    if kind not in KINDS or not name:
        raise ValueError(f"source must be torchvision:NAME, timm:NAME or hf:FOLDER, got {source!r}")
    return {
        "torchvision": Library(_torchvision_metadata, _torchvision_build),
        "timm": Library(_timm_metadata, _timm_build),
        "hf": Library(_hf_metadata, _hf_build),
    }[kind]


def _torchvision_weights(name: str, file: str = "") -> Any:
    """The weights of torchvision that a file is, by the checksum in their name; else the default ones."""
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"torchvision has no classifier {name!r}: it has {', '.join(known)}")
    every = models.get_model_weights(name)
    if file not in ("", UNTRAINED) and Path(file).is_file():
        digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        for weights in every:
            if digest.startswith(weights.url.rpartition("-")[2].partition(".")[0]):
                return weights
    return every.DEFAULT


def _torchvision_metadata(name: str, weights: str) -> Metadata:
    chosen = _torchvision_weights(name, weights)
    made = chosen.transforms()
    size = made.crop_size[0]
    preparation = Preparation(size, size, made.resize_size[0], made.interpolation.value)
    return Metadata(
        f"torchvision:{name}",
        preparation,
        tuple(made.mean),
        tuple(made.std),
        tuple(chosen.meta["categories"]),
    )


def _torchvision_build(name: str, *, trained: bool, num_classes: int | None, file: str | None) -> nn.Module:
    from torchvision import models

    chosen = _torchvision_weights(name, file or "")
    more: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if name in ("inception_v3", "googlenet"):
        more["init_weights"] = not trained and file is None
        if file is not None:
            digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
            # Its own weights want inputs as TensorFlow has them, which torchvision switches on when it loads them.
            more["transform_input"] = digest.startswith(chosen.url.rpartition("-")[2].partition(".")[0])
    try:
        weights = chosen if trained else None
        network = models.get_model(name, weights=weights, **more)
    except (OSError, RuntimeError) as error:
        if not trained:
            raise
        raise OSError(
            f"the weights of torchvision:{name} could not be fetched ({error}); give a file"
        ) from error
    return network


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise ImportError("timm:… needs timm (pip install 'rcfast[timm]')") from error
    return timm


def _timm_metadata(name: str, weights: str) -> Metadata:
    timm = _timm()
    found = timm.models.get_pretrained_cfg(name) if timm.is_model(name) else None
    if found is None:
        near = timm.list_models(f"*{name.partition('.')[0][:6]}*")[:5]
        raise ValueError(f"timm has no network {name!r}" + (f": it has {', '.join(near)}, …" if near else ""))
    told = timm.data.resolve_data_config(pretrained_cfg=found.to_dict())
    channels, height, width = told["input_size"]
    exact: int | tuple[int, int] = int(min(height, width) / told["crop_pct"])
    if told.get("crop_mode") == "squash":
        exact = int(height / told["crop_pct"]), int(width / told["crop_pct"])
    interpolation = told["interpolation"] if told["interpolation"] in BY_NUMBER.values() else "bicubic"
    return Metadata(
        f"timm:{name}",
        Preparation(height, width, exact, interpolation, channels),
        tuple(told["mean"]),
        tuple(told["std"]),
        _timm_classes(found.num_classes),
    )


def _timm_classes(count: int) -> tuple[str, ...]:
    if count != 1000:
        return ()
    info = _timm().data.ImageNetInfo()
    return tuple(info.index_to_description(k) for k in range(count))


def _timm_build(name: str, *, trained: bool, num_classes: int | None, file: str | None) -> nn.Module:
    timm, more = _timm(), {} if num_classes is None else {"num_classes": num_classes}
    try:
        network: nn.Module = timm.create_model(name, pretrained=trained, **more)
    except Exception as error:  # of the hub, of the network, of a cache that is not there
        if not trained:
            raise
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise OSError(f"the weights of timm:{name} could not be fetched ({reason}); give a file") from error
    return network


def _hf_json(folder: str, name: str) -> dict[str, Any]:
    path = Path(folder) / name
    if not path.is_file():
        raise ValueError(
            f"hf:{folder}: a folder of a transformers image classifier is needed, {path} is not there"
        )
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _hf_metadata(folder: str, weights: str) -> Metadata:
    config, told = _hf_json(folder, "config.json"), _hf_json(folder, "preprocessor_config.json")
    called = told.get("image_processor_type") or told.get("feature_extractor_type") or "ViTImageProcessor"
    kind = re.sub(r"(ImageProcessor(Fast|Pil)?|FeatureExtractor)$", "", called)
    if kind not in PROCESSORS:
        raise ValueError(
            f"hf:{folder}: how {called} prepares images is not known here; known are {', '.join(PROCESSORS)}"
        )
    shortest, crops = PROCESSORS[kind]
    size = told.get("size") or 224
    if not isinstance(size, Mapping):
        size = {"shortest_edge": size} if shortest else {"height": size, "width": size}
    crop = told.get("crop_size") or 224 if told.get("do_center_crop", crops) else None
    height, width = _sides(size if crop is None else crop)
    resize: int | tuple[int, int] = 0
    if told.get("do_resize", True):
        edge = size.get("shortest_edge")
        resize = _sides(size) if edge is None else int(edge)
        if kind == "ConvNext" and edge is not None and edge >= 384:
            resize = int(edge), int(edge)
        elif kind == "ConvNext" and edge is not None:
            resize = int(edge / (told.get("crop_pct") or CONVNEXT_CROP))
    channels = int(config.get("num_channels", 3))
    if told.get("rescale_offset"):
        raise ValueError(f"hf:{folder}: rescale_offset moves pixels in a way that is not known here")
    normalises = told.get("do_normalize", True)
    again = kind == "EfficientNet" and told.get("include_top", True)
    if (normalises or again) and not (told.get("image_mean") and told.get("image_std")):
        raise ValueError(f"hf:{folder}: preprocessor_config.json must say image_mean and image_std")
    mean, std = (0.0,) * channels, (1.0,) * channels
    if normalises:
        mean, std = tuple(told["image_mean"]), tuple(told["image_std"])
    if again:  # EfficientNet's images are divided by the deviation once more
        std = tuple(one * two for one, two in zip(std, told["image_std"], strict=True))
    # Pixels are divided by 255 here; where its own factor is another, mean and deviation are taken to that scale.
    scale = 255 * told.get("rescale_factor", 1 / 255) if told.get("do_rescale", True) else 255.0
    names = {int(k): v for k, v in config.get("id2label", {}).items()}
    return Metadata(
        f"hf:{folder}",
        Preparation(height, width, resize, BY_NUMBER.get(told.get("resample", 2), "bilinear"), channels),
        tuple(value / scale for value in mean),
        tuple(value / scale for value in std),
        tuple(names[k] for k in range(len(names))),
    )


def _sides(size: Any) -> tuple[int, int]:
    if isinstance(size, Mapping):
        one = size.get("shortest_edge", 0)
        return int(size.get("height", one)), int(size.get("width", one))
    return int(size), int(size)


def _hf_build(folder: str, *, trained: bool, num_classes: int | None, file: str | None) -> nn.Module:
    try:
        from transformers import AutoConfig, AutoModelForImageClassification
    except ImportError as error:
        raise ImportError("hf:… needs transformers (pip install 'rcfast[hf]')") from error
    more = {} if num_classes is None else {"num_labels": num_classes}
    if trained:
        network: nn.Module = AutoModelForImageClassification.from_pretrained(
            folder, local_files_only=True, **more
        )
    else:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, **more)
        network = AutoModelForImageClassification.from_config(config)
    return network
