"""Networks of torchvision, timm and transformers: their own arithmetic, with normalisation inside."""

import json
import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import people
import photographs
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from rcfast import data, models, training
from rcfast.models.weights import read_weights

SMALL = "torchvision:squeezenet1_1"  # 2.9 MB of weights


def images(side: int = 64, count: int = 2) -> Tensor:
    made = [photographs.crop("flower", k, side) for k in range(count)]
    return torch.stack([torch.from_numpy(np.asarray(m).copy()).permute(2, 0, 1) for m in made]) / 255


def own_weights(path: Path, num_classes: int = 5, wrap: Any = lambda state: state) -> nn.Module:
    torch.manual_seed(0)
    network = torchvision.models.squeezenet1_1(num_classes=num_classes).eval()
    state = wrap(network.state_dict())
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return network


# ---- torchvision


def test_normalisation_is_that_of_the_weights() -> None:
    about = models.metadata("torchvision:resnet18")
    preset = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
    assert (list(about.mean), list(about.std)) == (preset.mean, preset.std)
    assert about.preparation.shape == (3, *preset.crop_size * 2)
    assert about.preparation.resize == preset.resize_size[0]
    assert about.classes[0] == "tench"
    assert len(about.classes) == 1000


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_of_a_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mine{suffix}"
    network, x = own_weights(path), images()
    model = models.load(SMALL, weights=str(path))
    preset = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.transforms()
    mean, std = (torch.tensor(values)[:, None, None] for values in (preset.mean, preset.std))
    with torch.no_grad():
        torch.testing.assert_close(model(x), network((x - mean) / std))
    assert not model.training
    assert model(x).shape == (2, 5)  # as many classes as the file has


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{k}": v for k, v in state.items()}},
        lambda state: {f"_orig_mod.{k}": v for k, v in state.items()},
    ],
)
def test_weights_as_training_scripts_leave_them(tmp_path: Path, wrap: Any) -> None:
    network = own_weights(tmp_path / "mine.pth", wrap=wrap)
    model = models.load(SMALL, weights=str(tmp_path / "mine.pth"))
    assert all(
        torch.equal(a, b) for a, b in zip(model.network.parameters(), network.parameters(), strict=True)
    )


class Code:
    def __reduce__(self) -> Any:
        return (print, ("this must not run",))


def test_weights_that_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"code": Code()}, tmp_path / "code.pth")
    with pytest.raises(
        ValueError, match=r"code.pth: no file of weights that can be read without running code"
    ):
        read_weights(str(tmp_path / "code.pth"))
    assert "must not run" not in capsys.readouterr().out
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ValueError, match=r"text.safetensors: no file of weights"):
        read_weights(str(tmp_path / "text.safetensors"))
    torch.save({"a": 1}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match=r"holds no tensors by name"):
        read_weights(str(tmp_path / "empty.pth"))
    with pytest.raises(FileNotFoundError, match=r"nowhere.pth: no such file"):
        models.load(SMALL, weights=str(tmp_path / "nowhere.pth"))
    own_weights(tmp_path / "mine.pth")
    with pytest.raises(ValueError, match=r"is of another network: it lacks .*, and has beyond it classifier"):
        models.load("torchvision:resnet18", weights=str(tmp_path / "mine.pth"))


def test_untrained_weights_depend_on_the_seed_alone() -> None:
    make = lambda seed: models.load(SMALL, weights="none", num_classes=4, seed=seed)  # noqa: E731
    state = torch.get_rng_state()
    first, again, other = make(0), make(0), make(1)
    assert torch.equal(state, torch.get_rng_state())
    pairs = zip(first.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))
    assert first(images()).shape == (2, 4)


def test_a_trained_one_is_saved_and_found_again(tmp_path: Path) -> None:
    model = models.load(SMALL, weights="none", num_classes=4)
    training.save_model(model, tmp_path / "own.safetensors")
    again, _ = training.load_model(tmp_path / "own.safetensors")
    with torch.no_grad():
        assert torch.equal(again(images()), model(images()))


def test_what_a_saved_one_says_of_itself_is_kept(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(torchvision.models.squeezenet1_1(num_classes=5).state_dict(), tmp_path / "five.pth")
    model = models.load(SMALL, weights=str(tmp_path / "five.pth"))
    model.take(
        {
            **model.described(),
            "classes": list("abcde"),
            "preparation": {"height": 9, "width": 9, "resize": [10, 11]},
        }
    )
    training.save_model(model, tmp_path / "own.safetensors")
    again, _ = training.load_model(tmp_path / "own.safetensors")
    assert isinstance(again, models.Prepared)
    assert again.metadata == model.metadata
    assert again.metadata.classes == tuple("abcde")
    assert again.metadata.preparation.resize == (10, 11)
    with torch.no_grad():
        assert torch.equal(again(images()), model(images()))


def test_inputs_that_a_network_transforms_stay_so(tmp_path: Path) -> None:
    model = models.load("torchvision:inception_v3", weights="none", num_classes=3)
    model.network.transform_input = True  # as with torchvision's own weights
    training.save_model(model, tmp_path / "own.safetensors")
    again, _ = training.load_model(tmp_path / "own.safetensors")
    x = torch.rand(1, 3, 80, 80)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


def test_names_of_another_number_of_classes_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    create = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, pretrained, **more: create(name, **more)
    )  # no network
    assert models.load("timm:test_resnet", num_classes=5).metadata.classes == ()


def test_an_attribute_of_this_name_is_one_s_own(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    model.architecture = "resnet18"  # type: ignore[assignment]
    x, y = torch.rand(8, 1, 2, 2), torch.arange(8) % 3
    split = data.Split(x, y)
    for epochs in (1, 1):  # and again, from the checkpoint
        training.fit(model, split, epochs=epochs, checkpoint=tmp_path / "run.safetensors")
    training.save_model(model, tmp_path / "own.safetensors")
    with pytest.raises(ValueError, match=r"holds a network that is not of rcfast\.models"):
        training.load_model(tmp_path / "own.safetensors")


def test_weights_with_a_part_called_network(tmp_path: Path) -> None:
    tensors = {"network.0.weight": torch.ones(2), "head.weight": torch.ones(3)}
    torch.save(tensors, tmp_path / "volo.pth")
    assert set(read_weights(str(tmp_path / "volo.pth"))) == set(tensors)


def test_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*args: Any, **kwargs: Any) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(
        OSError, match=r"weights of torchvision:squeezenet1_1 could not be fetched .*give a file"
    ):
        models.load(SMALL)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("torchvision:resnet19", "torchvision has no classifier 'resnet19': it has alexnet"),
        ("torchvision:fcn_resnet50", "torchvision has no classifier"),  # segments
        ("hf:/nowhere", "a folder of a transformers image classifier is needed"),
        ("keras:x", "source must be torchvision:NAME, timm:NAME or hf:FOLDER"),
        ("torchvision:", "source must be"),
    ],
)
def test_sources_that_are_not_there(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.load(source, weights="none")


@pytest.mark.parametrize(("source", "library"), [("timm:resnet10t", "timm"), ("hf:{}", "transformers")])
def test_a_library_that_is_not_installed(
    source: str, library: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": false}')
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"needs {library} \(pip install 'rcfast\["):
        models.load(source.format(tmp_path), weights="none")


# ---- timm


def test_timm(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    about = models.metadata("timm:vit_tiny_patch16_224")
    assert (about.mean, about.preparation.shape) == ((0.5, 0.5, 0.5), (3, 224, 224))
    assert (about.preparation.resize, about.preparation.interpolation) == (248, "bicubic")
    assert about.classes[0].startswith("tench")
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=6).eval()
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    model, x = models.load("timm:test_resnet", weights=str(tmp_path / "mine.pth")), images()
    config = timm.data.resolve_model_data_config(network)
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        torch.testing.assert_close(model(x), network((x - mean) / std))
    with pytest.raises(ValueError, match=r"timm has no network 'resnet18x'"):
        models.load("timm:resnet18x")


def test_timm_squashes_before_it_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")
    told = models.metadata("timm:dm_nfnet_f0").preparation
    assert (told.resize, told.height, told.width) == ((213, 213), 192, 192)


# ---- transformers


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"do_normalize": False},
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
        {
            "size": {"height": 40, "width": 40},
            "do_center_crop": True,
            "crop_size": {"height": 32, "width": 32},
        },
    ],
)
def test_a_folder_of_transformers_gives_what_its_own_processor_leads_to(tmp_path: Path, changes: Any) -> None:
    network, processor = people.write_vit(tmp_path, ("cat", "dog", "eel"), **changes)
    source = f"hf:{tmp_path}"
    model, about = models.load(source), models.metadata(source)
    assert about.classes == ("cat", "dog", "eel")
    photo = photographs.crop("flower", 3, 50)
    ours = torch.from_numpy(about.preparation(photo).copy())[None] / 255
    theirs = processor(photo, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = network(theirs).logits
        torch.testing.assert_close(model(ours), expected, rtol=0, atol=0.02)  # resizing rounds otherwise
        torch.testing.assert_close(model.normalise(ours), theirs, rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("EfficientNetImageProcessor", {"size": {"height": 40, "width": 40}, "include_top": True}),
        ("EfficientNetImageProcessor", {"size": {"height": 40, "width": 40}, "include_top": False}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 32}, "crop_pct": 0.8}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
        ("BitImageProcessor", {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}),
        (
            "DeiTImageProcessor",
            {"size": {"height": 40, "width": 40}, "crop_size": {"height": 32, "width": 32}},
        ),
    ],
)
def test_images_are_prepared_as_the_processor_does(tmp_path: Path, kind: str, changes: Any) -> None:
    transformers = pytest.importorskip("transformers")
    people.write_vit(tmp_path)
    told = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.4785, 0.4, 0.5], "resample": 2, **changes}
    processor = getattr(transformers, kind)(**told)
    processor.save_pretrained(tmp_path)
    about = models.metadata(f"hf:{tmp_path}")
    photo = photographs.crop("flower", 3, 60).resize((60, 50))
    ours = torch.from_numpy(about.preparation(photo).copy())[None] / 255
    normalised = models.network.Normalize(about.mean, about.std)(ours)
    theirs = processor(photo, return_tensors="pt")["pixel_values"]
    assert theirs.shape == normalised.shape
    torch.testing.assert_close(normalised, theirs, rtol=0, atol=0.05)  # resizing rounds otherwise


def test_one_number_for_a_size_means_what_the_processor_means(tmp_path: Path) -> None:
    people.write_vit(tmp_path)
    usual = {"size": 224, "crop_pct": 0.875, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    config = tmp_path / "preprocessor_config.json"
    for kind, resize in (
        ("ConvNextFeatureExtractor", 256),
        ("ViTFeatureExtractor", (224, 224)),
        ("BitImageProcessor", 224),
    ):
        config.write_text(json.dumps({**usual, "feature_extractor_type": kind}))
        told = models.metadata(f"hf:{tmp_path}").preparation
        assert (told.resize, told.height, told.width) == (resize, 224, 224), kind


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (
            {"image_processor_type": "MobileViTImageProcessor"},
            "how MobileViTImageProcessor prepares images is not known",
        ),
        ({"image_processor_type": "ViTImageProcessor"}, "must say image_mean and image_std"),
    ],
)
def test_processors_that_are_refused(tmp_path: Path, told: Any, message: str) -> None:
    people.write_vit(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=message):
        models.metadata(f"hf:{tmp_path}")
