"""rcfast.models: the networks of the paper, rebuilt by name."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from rcfast import models


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def equal_weights(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [
        # Layer by layer: 320 + 9,248 + 18,496 + 36,928 + 205,000 + 40,200 + 2,010.
        ("mnist_cnn", (1, 28, 28), 312_202),
        ("digits_cnn", (1, 8, 8), 160 + 4_640 + 18_496 + 16_448 + 650),
        # He et al. (2016), Table 6: 0.27M for depth 20
        ("cifar_resnet", (3, 32, 32), 269_722),
    ],
)
def test_size_and_output(name, shape, count):
    model = models.build(name)
    assert parameters(model) == count
    logits = model.eval()(torch.rand(3, *shape))
    assert logits.shape == (3, 10)
    assert logits.isfinite().all()


def test_resnet_depths_of_the_paper():
    # He et al. (2016), Table 6, in millions.
    for depth, millions in ((32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)):
        assert parameters(models.cifar_resnet(depth=depth)) / 1e6 == pytest.approx(millions, abs=0.04)


def test_mnist_layers_in_order():
    kinds = [type(layer).__name__ for layer in models.mnist_cnn().layers]
    conv, dense = ["Conv2d", "ReLU"], ["Linear", "ReLU"]
    expected = [
        *conv,
        *conv,
        "MaxPool2d",
        *conv,
        *conv,
        "MaxPool2d",
        "Flatten",
        *dense,
        "Dropout",
        *dense,
        "Linear",
    ]
    assert kinds == expected
    assert [m.out_features for m in models.mnist_cnn().modules() if isinstance(m, nn.Linear)] == [
        200,
        200,
        10,
    ]


@pytest.mark.parametrize("name", sorted(models.ARCHITECTURES))
def test_architecture_rebuilds_the_network(name):
    model = models.build(name, num_classes=7, seed=3)
    assert equal_weights(model, models.build(**model.architecture))
    assert not equal_weights(model, models.build(name, num_classes=7, seed=4))
    assert equal_weights(model, copy.deepcopy(model))


def test_weights_neither_use_nor_move_the_global_random_state():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = models.digits_cnn()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    assert equal_weights(first, models.digits_cnn())


def test_normalisation_is_inside_and_travels_with_the_weights():
    model = models.cifar_resnet(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125))
    x = torch.rand(2, 3, 32, 32)
    normalised = model.layers[0](x)
    for channel, (mean, std) in enumerate(((0.1, 0.5), (0.2, 0.25), (0.3, 0.125))):
        torch.testing.assert_close(normalised[:, channel], (x[:, channel] - mean) / std)
    assert {"layers.0.mean", "layers.0.std"} <= set(model.state_dict())
    assert model.to(torch.bfloat16)(x.to(torch.bfloat16)).dtype == torch.bfloat16


def test_residual_block_adds_its_input():
    model = models.cifar_resnet(depth=8)
    block = model.layers[5]  # the first of the second stage: half the size, twice the channels
    for norm in (block.norm1, block.norm2):
        nn.init.zeros_(norm.weight)
    x = torch.rand(2, 16, 32, 32)
    out = block(x)
    torch.testing.assert_close(out[:, :16], x[:, :, ::2, ::2])
    assert out.shape == (2, 32, 16, 16)
    assert out[:, 16:].abs().max() == 0


@pytest.mark.parametrize(
    ("shape", "classes", "name"),
    [
        ((1, 8, 8), 10, "digits_cnn"),
        ((3, 8, 12), 4, "digits_cnn"),
        ((1, 28, 28), 10, "mnist_cnn"),
        ((1, 31, 29), 26, "mnist_cnn"),
        ((3, 32, 32), 10, "cifar_resnet"),
        ((4, 33, 47), 2, "cifar_resnet"),
    ],
)
def test_for_dataset_fits_the_data(shape, classes, name):
    model = models.for_dataset(SimpleNamespace(shape=shape, num_classes=classes))
    assert model.architecture["name"] == name
    assert model.eval()(torch.rand(2, *shape)).shape == (2, classes)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: models.build("vgg"),
            ValueError,
            "name must be one of cifar_resnet, digits_cnn, mnist_cnn, got 'vgg'",
        ),
        (lambda: models.build("mnist_cnn", depth=3), TypeError, "depth"),
        (lambda: models.mnist_cnn(shape=(1, 8, 8)), ValueError, "sides of at least 16, got"),
        (lambda: models.digits_cnn(shape=(64,)), ValueError, r"shape must be \(C, H, W\)"),
        (lambda: models.digits_cnn(num_classes=1), ValueError, "num_classes must be at least 2, got 1"),
        (lambda: models.cifar_resnet(depth=18), ValueError, "depth must be 6k . 2 with k >= 1, got 18"),
        (
            lambda: models.cifar_resnet(mean=(0.5,)),
            ValueError,
            "mean and std must have 3 values, got 1 and 3",
        ),
    ],
)
def test_bad_settings(call, error, message):
    with pytest.raises(error, match=message):
        call()
