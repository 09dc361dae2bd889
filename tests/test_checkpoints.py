"""Checkpoints: a run that was stopped ends as if it had not been; a file is whole, verified and never code."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors
import torch
import training_run
from torch import nn
from training_models import Brighten, equal

from rcfast import models, training
from rcfast.data import Split
from rcfast.regions import Cube
from rcfast.training import checkpoints, engine

pytestmark = pytest.mark.usefixtures("one_thread")


def resnet() -> nn.Module:
    return models.cifar_resnet(shape=(3, 8, 8), num_classes=4, depth=8, width=4)


def cnn() -> nn.Module:
    return models.digits_cnn(shape=(3, 8, 8), num_classes=4)


def fit(small, checkpoint, **settings):
    settings = {"epochs": 4, "batch_size": 16, "shift": 1, "flip": True, **settings}
    return training.fit(cnn(), small, checkpoint=checkpoint, **settings)


def fit_noisy(small, checkpoint):
    return fit(small, checkpoint, noise=Cube(0.2))


def fit_resnet(small, checkpoint):
    return training.fit(resnet(), small, checkpoint=checkpoint, epochs=4, batch_size=16)


def fit_adversarial(small, checkpoint):
    return training.fit_adversarial(
        cnn(), small, attack=Brighten(), checkpoint=checkpoint, epochs=4, batch_size=16
    )


def fit_distilled(small, checkpoint):
    return training.fit_distilled(cnn, small, checkpoint=checkpoint, epochs=4, batch_size=16)


def stop_after(epochs: int, monkeypatch) -> None:
    """Ctrl-C during the epoch after the given number of finished ones."""
    original, begun = engine._Loop.epoch, []

    def epoch(self, number, bar):
        begun.append(number)
        if len(begun) > epochs:
            raise KeyboardInterrupt
        return original(self, number, bar)

    monkeypatch.setattr(engine._Loop, "epoch", epoch)


def without_times(history):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


@pytest.mark.parametrize(
    ("run", "epochs"),
    [
        *((run, epochs) for run in (fit, fit_noisy, fit_resnet, fit_adversarial) for epochs in (1, 3)),
        *((fit_distilled, epochs) for epochs in (1, 3, 5)),  # 5: its teacher and one epoch of the student
    ],
)
def test_resumed_run_ends_like_an_uninterrupted_one(small, tmp_path, monkeypatch, run, epochs):
    whole = run(small, None)
    with monkeypatch.context() as patch:
        stop_after(epochs, patch)
        with pytest.raises(KeyboardInterrupt):
            run(small, tmp_path / "run.safetensors")
    torch.manual_seed(99)
    resumed = run(small, tmp_path / "run.safetensors")
    assert equal(whole.model, resumed.model)
    assert without_times(whole.history) == without_times(resumed.history)


@pytest.mark.slow
def test_killed_process_resumes_to_the_same_weights(tmp_path):
    path = tmp_path / "run.safetensors"
    process = subprocess.Popen([sys.executable, training_run.__file__, str(path)])
    deadline = time.monotonic() + 120
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run was over before it could be killed"
    done = checkpoints.read_tensors(path)[1]["epoch"]
    assert 1 <= done < training_run.EPOCHS
    resumed = training_run.run(str(path))
    assert equal(resumed.model, training_run.run(None).model)
    assert len(resumed.history) == training_run.EPOCHS


def test_finished_checkpoint_is_loaded_not_trained_again(small, tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    first = fit(small, path)
    content = path.read_bytes()
    stop_after(0, monkeypatch)
    again = training.fit(
        cnn(), small, validation=small, checkpoint=path, epochs=4, batch_size=16, shift=1, flip=True
    )
    assert equal(first.model, again.model)
    assert again.accuracy == float(training.evaluate(first.model, small))
    assert again.seconds == first.seconds
    assert path.read_bytes() == content
    model, config = training.load_model(path)
    assert equal(first.model, model)
    assert config["recipe"]["epochs"] == 4


def other_data(small):
    return Split(small.x.flip(0), small.y.flip(0))


@pytest.mark.parametrize(
    ("call", "key"),
    [
        (lambda s, p: fit(s, p, epochs=5), "recipe.epochs is 4 there and 5 here"),
        (lambda s, p: fit(s, p, lr=0.2), "recipe.lr is 0.1 there and 0.2 here"),
        (lambda s, p: fit(s, p, seed=1), "seed is 0 there and 1 here"),
        (lambda s, p: fit(other_data(s), p), "data is '"),
        (lambda s, p: training.fit(resnet(), s, checkpoint=p, epochs=4, batch_size=16), "architecture"),
        (lambda s, p: fit_adversarial(s, p), "method.attack is None there and 'Brighten"),
    ],
    ids=["epochs", "lr", "seed", "data", "model", "method"],
)
def test_checkpoint_of_another_configuration_is_refused_and_kept(small, tmp_path, call, key):
    path = tmp_path / "run.safetensors"
    fit(small, path)
    content = path.read_bytes()
    with pytest.raises(ValueError, match=f"run.safetensors is of another configuration: {key}"):
        call(small, path)
    assert path.read_bytes() == content


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 4
    path.write_bytes(content)


def change_description(path: Path) -> None:
    content = path.read_bytes()
    assert b'\\"epoch\\": 4' in content
    path.write_bytes(content.replace(b'\\"epoch\\": 4', b'\\"epoch\\": 2'))


def foreign(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3)}, path)


def pickle(path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, path)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (truncate, "truncated or damaged, or not a safetensors file"),
        (flip_bit, "damaged: its content does not have the SHA-256"),
        (change_description, "damaged: its content does not have the SHA-256"),
        (foreign, "not one that rcfast wrote"),
        (pickle, "truncated or damaged, or not a safetensors file"),
    ],
)
def test_damaged_file_is_refused(small, tmp_path, damage, fault):
    path = tmp_path / "run.safetensors"
    fit(small, path)
    damage(path)
    for use in (lambda: fit(small, path), lambda: training.load_model(path)):
        with pytest.raises(ValueError, match=f"run.safetensors: .*{fault}"):
            use()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failing_write_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "model.safetensors"
    model = cnn()
    training.save_model(model, path)

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match="No space left"):
            training.save_model(models.digits_cnn(seed=5, shape=(3, 8, 8), num_classes=4), path)
    assert equal(training.load_model(path)[0], model)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_what_a_killed_write_left_is_no_obstacle(tmp_path):
    (tmp_path / ".model.safetensors.part").write_bytes(b"half")
    training.save_model(resnet(), tmp_path / "model.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def brighten(model, x, labels):
    return SimpleNamespace(adversarial=(x + 0.1).clamp(0, 1))


def test_an_attack_that_is_a_function_has_no_address_in_the_checkpoint(small, tmp_path):
    path = tmp_path / "run.safetensors"
    training.fit_adversarial(cnn(), small, attack=brighten, checkpoint=path, epochs=1, batch_size=16)
    _, config = training.load_model(path)
    assert config["method"]["attack"] == "<function brighten>"


@pytest.mark.parametrize("make", [cnn, resnet, models.mnist_cnn])
def test_saved_model_comes_back_with_its_configuration(tmp_path, make):
    path = tmp_path / "new" / "model.safetensors"
    model = make()
    training.save_model(model, path, {"accuracy": 0.5, "notes": ["ü", None]})
    again, config = training.load_model(path)
    assert equal(model, again)
    assert again.architecture == model.architecture
    assert not again.training
    assert config == {"accuracy": 0.5, "notes": ["ü", None]}
    with safetensors.safe_open(path, "pt") as file:
        assert set(file.keys()) == {f"model/{key}" for key in model.state_dict()}


def test_own_model_and_low_precision(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).to(torch.bfloat16)
    training.save_model(model, tmp_path / "own.safetensors")
    with pytest.raises(
        ValueError, match=r"holds a network that is not of rcfast\.models; give it as `model`"
    ):
        training.load_model(tmp_path / "own.safetensors")
    fresh = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).to(torch.bfloat16)
    assert equal(training.load_model(tmp_path / "own.safetensors", model=fresh)[0], model)
    with pytest.raises(ValueError, match=r"own\.safetensors: its tensors do not fit this model"):
        training.load_model(tmp_path / "own.safetensors", model=nn.Linear(2, 2))


def test_other_files_are_refused(small, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors: no such file"):
        training.load_model(tmp_path / "absent.safetensors")
    training.save_model(cnn(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"checkpoint .*model\.safetensors is not of a training run"):
        fit(small, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="checkpoint must be a file, got the folder"):
        fit(small, tmp_path)
    stop_after(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        fit(small, tmp_path / "run.safetensors")
    with pytest.raises(ValueError, match="an unfinished training, 2 of 4 epochs; resume it by the same call"):
        training.load_model(tmp_path / "run.safetensors")
    with pytest.raises(TypeError):
        training.save_model(cnn(), tmp_path / "set.safetensors", {"a": {1, 2}})
    assert not (tmp_path / "set.safetensors").exists()


def test_trained_and_loaded_model_round_alike(small, tmp_path):
    trained = fit(small, tmp_path / "run.safetensors").model
    loaded, _ = training.load_model(tmp_path / "run.safetensors")
    assert torch.equal(trained(small.x), loaded(small.x))
    assert [p.stride() for p in trained.parameters()] == [p.stride() for p in loaded.parameters()]
