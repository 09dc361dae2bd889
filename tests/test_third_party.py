"""Attack libraries accept the classifier as a model: its votes stand where they expect logits."""

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rcfast.classifier import RegionClassifier


class Bright(nn.Module):
    """Label 1 where the image is brighter than a third on average."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, x: Tensor) -> Tensor:
        score = self.scale * (x.flatten(1).mean(1) - 1 / 3)
        return torch.stack([-score, score], 1)


def dark_images(batch: int = 6) -> Tensor:
    return 0.5 * torch.rand(batch, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def classifier() -> RegionClassifier:
    return RegionClassifier(Bright(), 0.1, m=64, num_classes=2).eval()


def test_foolbox_pytorch_model(classifier: RegionClassifier) -> None:
    fb = pytest.importorskip("foolbox", reason="foolbox is not installed (pip install -e '.[test]')")
    x, labels = dark_images(), torch.zeros(6, dtype=torch.int64)
    model = fb.PyTorchModel(classifier, bounds=(0, 1), device="cpu")
    assert torch.equal(model(x), classifier(x))
    assert fb.accuracy(model, x, labels) == 1.0
    attack = fb.attacks.LinearSearchContrastReductionAttack(target=1.0, steps=100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, adversarial, success = attack(model, x, labels, epsilons=None)
    assert success.all()
    assert (classifier.predict(adversarial) == 1).all()


def test_art_pytorch_classifier(classifier: RegionClassifier) -> None:
    reason = "adversarial-robustness-toolbox is not installed (pip install -e '.[test]')"
    art = pytest.importorskip("art.estimators.classification", reason=reason)
    from art.attacks.evasion import HopSkipJump

    x = dark_images(2).numpy()
    wrapped = art.PyTorchClassifier(
        model=classifier, loss=nn.CrossEntropyLoss(), input_shape=(1, 8, 8), nb_classes=2, clip_values=(0, 1)
    )
    np.testing.assert_array_equal(wrapped.predict(x), classifier(torch.from_numpy(x)).numpy())
    attack = HopSkipJump(wrapped, max_iter=2, max_eval=50, init_eval=10, init_size=50, verbose=False)
    np.random.seed(0)  # noqa: NPY002 (what ART draws from)
    adversarial = torch.from_numpy(attack.generate(x))
    assert (classifier.predict(adversarial) == 1).all()


def test_torchattacks(classifier: RegionClassifier) -> None:
    torchattacks = pytest.importorskip(
        "torchattacks", reason="torchattacks is not installed (pip install torchattacks)"
    )
    x, labels = dark_images(), torch.zeros(6, dtype=torch.int64)
    adversarial = torchattacks.Square(classifier, eps=0.3, n_queries=200, seed=0)(x, labels)
    assert (classifier.predict(adversarial) == 1).any()
    assert (adversarial - x).abs().max() <= 0.3 + 1e-5


def test_autoattack(classifier: RegionClassifier) -> None:
    reason = "autoattack is not installed"
    autoattack = pytest.importorskip("autoattack", reason=reason)
    x, labels = dark_images(), torch.zeros(6, dtype=torch.int64)
    attack = autoattack.AutoAttack(
        classifier,
        norm="Linf",
        eps=0.3,
        version="custom",
        attacks_to_run=["square"],
        device="cpu",
        verbose=False,
    )
    attack.square.n_queries = 200
    assert (classifier.predict(attack.run_standard_evaluation(x, labels)) == 1).any()
