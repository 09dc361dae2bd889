"""Networks of torchvision, timm and transformers: their own arithmetic, with normalisation inside."""

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

from rcfast import models, training
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
    (tmp_path / "preprocessor_config.json").write_text("{}")
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
