"""Networks on our convolution kernel: the same logits, today's weights, and a model that stays as it was."""

import sys
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils import prune

from rcfast import models, ops
from rcfast.eval.run.voter import Voter
from rcfast.fused import Fused, FusedBlock, FusedConv, fused
from rcfast.fused.standin import Chain
from rcfast.running import plain

pytestmark = pytest.mark.skipif(
    ops.build_info()["instruction_set"] == "portable", reason="torch's convolutions are faster there"
)
SHAPES = {"mnist_cnn": (1, 28, 28), "digits_cnn": (1, 8, 8), "cifar_resnet": (3, 32, 32)}
KERNELS = {"mnist_cnn": 4, "digits_cnn": 3, "cifar_resnet": 17}  # all but the two of stride 2


def network(name: str) -> nn.Module:
    model = models.build(name, shape=SHAPES[name], num_classes=10, seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    for part in model.modules():  # as after training
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.running_mean, part.running_var, part.weight, part.bias):
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif isinstance(part, nn.Conv2d) and part.bias is not None:
            part.bias.data.copy_(torch.randn(part.bias.shape, generator=generator))
    return model


def images(shape: tuple[int, ...], count: int = 7) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(2))


def close(twin: nn.Module, model: nn.Module, x: Tensor) -> None:
    with torch.inference_mode():
        got, expected = twin(x), model(x)
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


def passed(twin: nn.Module | None) -> Iterator[nn.Module]:
    """The modules that a pass goes through, as far as Sequentials say."""
    assert twin is not None
    yield twin
    for part in twin.joined if isinstance(twin, Chain) else twin.children():
        yield from passed(part)


def kernels(twin: nn.Module) -> list[FusedConv]:
    return [part for part in passed(twin) if isinstance(part, FusedConv)]


@pytest.mark.parametrize("name", SHAPES)
def test_the_logits_are_the_models(name: str) -> None:
    model = network(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    twin = fused(model)
    assert twin is not None
    assert len(kernels(twin)) == KERNELS[name]
    close(twin, model, images(SHAPES[name]))
    close(twin, model, images(SHAPES[name]).contiguous(memory_format=torch.channels_last))
    assert not kernels(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", SHAPES)
def test_gradients_in_the_images_are_the_models(name: str) -> None:
    model, x = network(name), images(SHAPES[name])
    twin = fused(model)
    assert twin is not None
    found = []
    for function in (twin, model):
        leaf = x.clone().requires_grad_()
        logits = function(leaf)
        found.append(torch.autograd.grad((logits * torch.arange(10)).sum(), leaf)[0])
    # The rounding of an activation next to 0 turns a ReLU over, which moves the gradient of one image around it.
    close = (found[0] - found[1]).abs() <= 2e-5 * found[1].abs().max()
    assert close.float().mean() > 0.97
    assert close.flatten(1).all(1).float().mean() > 0.5
    assert torch.equal(twin(x), twin(x.clone().requires_grad_()))  # maxima in a pass of their own


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("channels", [1, 3, 8, 24])
def test_gradient_of_one_convolution(padding: int, channels: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, 16, 3, padding=padding)
    twin, x = fused(nn.Sequential(conv, nn.ReLU())), images((channels, 7, 10))
    assert twin is not None
    found = [x.clone().requires_grad_() for _ in range(2)]
    (twin(found[0]) ** 2).sum().backward()
    (conv(found[1]).relu() ** 2).sum().backward()
    torch.testing.assert_close(
        found[0].grad, found[1].grad, rtol=0, atol=1e-5 * float(found[1].grad.abs().max())
    )


@pytest.mark.parametrize("way", ["in place", "through .data", "loaded", "statistics"])
def test_it_follows_the_weights(way: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)
    ).eval()
    twin, x = fused(model), images((1, 8, 8))
    assert twin is not None
    before = twin(x)
    with torch.no_grad():
        if way == "in place":
            model[0].weight.mul_(-1)
        elif way == "through .data":
            model[0].weight.data.mul_(-1)
        elif way == "loaded":
            model.load_state_dict({key: value + 0.3 for key, value in model.state_dict().items()})
        else:
            model[1].running_mean.add_(1)
    assert twin.refresh()
    assert not torch.allclose(twin(x), before)
    close(twin, model, x)


def test_what_follows_a_convolution_joins_it() -> None:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 16, 3, padding="same", bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),  # after few channels: not in the same pass
        nn.Conv2d(16, 8, 3, padding=2),
        nn.BatchNorm2d(8, affine=False),
        nn.ReLU(),
        nn.MaxPool2d((2, 2), stride=2),
        nn.Conv2d(8, 8, 3),
        nn.MaxPool2d(2),  # without ReLU between: not in the same pass
    ]
    model = nn.Sequential(*layers).eval()
    twin = fused(model)
    assert twin is not None
    assert isinstance(twin.twin, Chain)
    names = " ".join(type(part).__name__ for part in twin.twin.joined)
    assert names == "FusedConv MaxPool2d FusedConv FusedConv MaxPool2d"
    assert len(twin.twin) == len(model)
    assert [(part.padding, part.relu, part.pool) for part in kernels(twin)] == [
        (1, True, False),
        (2, True, True),
        (0, False, False),
    ]
    close(twin, model, images((3, 19, 19)))


def residual(twin: nn.Module) -> int:
    return sum(isinstance(part, FusedBlock) for part in passed(twin))


def photographer(**options: Any) -> nn.Module:
    """A ResNet of torchvision, with normalisations that do something."""
    torch.manual_seed(0)
    model = torchvision.models.ResNet(num_classes=5, **options).eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.running_mean, part.running_var, part.weight, part.bias):
                tensor.data.copy_(torch.rand_like(tensor) + 0.5)
    return model


BASIC, BOTTLENECK = torchvision.models.resnet.BasicBlock, torchvision.models.resnet.Bottleneck


def of_timm(name: str) -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.create_model(name, num_classes=5).eval()


RESIDUAL: dict[str, Any] = {  # a network, its residual blocks on the kernel, and its convolutions
    "ours": (lambda: network("cifar_resnet"), 7, 17),
    "torchvision, basic": (lambda: photographer(block=BASIC, layers=[2, 1, 2, 1]), 3, 9),
    "torchvision, bottleneck": (lambda: photographer(block=BOTTLENECK, layers=[2, 1, 1, 1]), 0, 2),
    "timm, basic": (lambda: of_timm("resnet18"), 5, 13),
    "timm, bottleneck": (lambda: of_timm("resnet26"), 0, 5),
}


@pytest.mark.parametrize("kind", RESIDUAL)
def test_residual_blocks(kind: str) -> None:
    make, blocks, convolutions = RESIDUAL[kind]
    model = make()
    twin, x = fused(model), images((3, 32, 32))
    assert twin is not None
    assert (residual(twin), len(kernels(twin))) == (blocks, convolutions)
    assert all(part._layers[1] is not None for part in kernels(twin)), "each takes its normalisation along"
    close(twin, model, x)
    found = []
    for function in (twin, model):
        leaf = x.clone().requires_grad_()
        logits = function(leaf)
        found.append(torch.autograd.grad((logits * torch.arange(logits.shape[1])).sum(), leaf)[0])
    apart = (found[0] - found[1]).flatten(1).norm(dim=1) / found[1].flatten(1).norm(dim=1)
    assert apart.median() < 1e-5
    assert apart.max() < 0.05


class Tapped(nn.Module):
    """Takes what lies between two convolutions of a Sequential a second time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
        )
        self.last = nn.Linear(8 * 36, 4)

    def forward(self, x: Tensor) -> Tensor:
        first, act, second, act_again = self.body
        x = act(first(x))
        return self.last((x + act_again(second(x))).flatten(1))


def test_a_gradient_takes_the_relu_before_it_along() -> None:
    torch.manual_seed(0)
    layers = [
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3), nn.Tanh()),  # what follows has no ReLU to take
        *(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),  # the maxima stand between
        *(BASIC(16, 16), BASIC(16, 16), nn.Flatten()),
    ]
    model, x = nn.Sequential(*layers).eval(), images((3, 18, 18))
    twin = fused(model)
    assert twin is not None
    parts = [part for part in twin.twin.joined if isinstance(part, (FusedConv, FusedBlock))]  # type: ignore[attr-defined]
    assert [(part.gates, part.gated) for part in parts] == [
        *((False, True), (True, True), (True, False)),
        *((False, False), (False, True), (True, False)),
    ]
    found = []
    for function, precise in ((twin, x), (model.double(), x.double())):
        leaf = precise.clone().requires_grad_()
        out = function(leaf)
        found.append(torch.autograd.grad((out * torch.linspace(-1, 1, out.shape[1])).sum(), leaf)[0].double())
    apart = (found[0] - found[1]).flatten(1).norm(dim=1) / found[1].flatten(1).norm(dim=1)
    assert apart.median() < 1e-5
    assert apart.max() < 0.05  # rounding may turn a ReLU over


def test_what_lies_between_two_convolutions_may_be_taken_a_second_time() -> None:
    model, x = Tapped().eval(), images((8, 6, 6))
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    attacked = plain(model).reformatted(x)
    assert isinstance(attacked.model, Fused)
    attacked(leaves[0]).square().sum().backward()
    model(leaves[1]).square().sum().backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=1e-4, atol=1e-5)


def test_a_block_of_another_kind_keeps_its_own_way() -> None:
    class Scaled(BASIC):  # type: ignore[valid-type, misc]
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    model = nn.Sequential(Scaled(8, 8)).eval()
    twin, x = fused(model), images((8, 9, 9))
    assert twin is not None
    assert residual(twin) == 0
    assert all(part._layers[1] is None for part in kernels(twin))
    close(twin, model, x)


def test_a_block_that_lacks_what_is_asked_of_it_keeps_its_own_way() -> None:
    model, x = nn.Sequential(BASIC(8, 8)).eval(), images((8, 9, 9))
    expected = model(x)
    model[0].__dict__["_modules"]["act"] = model[0]._modules.pop("relu")  # as another version may name it
    twin = fused(model)
    assert twin is not None
    assert residual(twin) == 0
    with pytest.raises(AttributeError, match="relu"):
        twin(x)
    model[0]._modules["relu"] = model[0]._modules.pop("act")
    again = fused(model)
    assert again is not None
    torch.testing.assert_close(again(x), expected, rtol=0, atol=1e-5)


def test_a_block_that_has_become_another_is_told_from_it() -> None:
    model = nn.Sequential(BASIC(8, 8)).eval()
    twin, x = fused(model), images((8, 9, 9))
    assert twin is not None
    assert residual(twin) == 1
    assert twin.refresh()
    with torch.no_grad():
        model[0].bn2.running_mean.add_(1)
    assert twin.refresh()
    close(twin, model, x)
    model[0].relu = nn.LeakyReLU()
    assert not twin.refresh()
    again = fused(model)
    assert again is not None
    close(again, model, x)


def test_the_slope_of_a_block_is_its_own() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(BASIC(16, 16)).eval(), images((16, 10, 7)) - 0.3
    twin = fused(model)
    assert twin is not None
    found = [x.clone().requires_grad_(), x.double().requires_grad_()]
    weights = torch.randn(1, 16, 1, 1)
    (twin(found[0]) * weights).sum().backward()
    (model.double()(found[1]) * weights).sum().backward()
    apart = (found[0].grad.double() - found[1].grad).abs() > 1e-5 * found[1].grad.abs().max()
    assert apart.float().mean() < 0.01  # where rounding turns a ReLU over


class Own(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


def hooked() -> nn.Module:
    conv = nn.Conv2d(8, 8, 3)
    conv.register_forward_hook(lambda module, inputs, output: output + 1)
    return conv


def own_forward(conv: nn.Module) -> nn.Module:
    inner = conv.forward
    conv.forward = lambda x: inner(x) + 1  # type: ignore[method-assign]
    return conv


def compiled_in_place(conv: nn.Module) -> nn.Module:
    conv.compile(backend="eager")
    return conv


def listening(module: nn.Module) -> nn.Module:
    module.register_forward_pre_hook(lambda module, inputs: None)
    return module


class Stubborn(nn.Sequential):
    def train(self, mode: bool = True) -> "Stubborn":
        return super().train(True)


OTHERS: dict[str, Any] = {
    "a subclass": lambda: Own(8, 8, 3),
    "a hook": hooked,
    "a forward of its own": lambda: own_forward(nn.Conv2d(8, 8, 3)),
    "the older spectral norm": lambda: nn.utils.spectral_norm(nn.Conv2d(8, 8, 3)),
    "pruning": lambda: prune.l1_unstructured(nn.Conv2d(8, 8, 3), "weight", 3),
    "compiled in place": lambda: compiled_in_place(nn.Conv2d(8, 8, 3)),
    "compiled inside": lambda: torch.compile(nn.Sequential(nn.Conv2d(8, 8, 3)), backend="eager"),
    "a parent with a hook": lambda: listening(nn.Sequential(nn.Conv2d(8, 8, 3))),
    "a parent that has an eye on its mode": lambda: Stubborn(nn.Conv2d(8, 8, 3)),
    "TorchScript": lambda: torch.jit.script(nn.Sequential(nn.Conv2d(8, 8, 3))),
    "a parametrisation": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3)),
    "stride": lambda: nn.Conv2d(8, 8, 3, stride=2),
    "dilation": lambda: nn.Conv2d(8, 8, 3, dilation=2),
    "groups": lambda: nn.Conv2d(8, 8, 3, groups=8),
    "other padding": lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
    "uneven padding": lambda: nn.Conv2d(8, 8, 3, padding=(1, 0)),
    "wide padding": lambda: nn.Conv2d(8, 8, 3, padding=3),
    "other kernel": lambda: nn.Conv2d(8, 8, 5),
    "odd channels": lambda: nn.Conv2d(8, 10, 3),
    "float64": lambda: nn.Conv2d(8, 8, 3).double(),
    "none": lambda: nn.ReLU(),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_the_kernel_does_not_compute_stays_torchs(kind: str) -> None:
    assert fused(nn.Sequential(OTHERS[kind](), nn.Flatten()).eval()) is None


class Counting(nn.Module):
    """Does more than its children: scales, masks, counts its passes and keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
        self.register_module("nothing", None)
        self.scale, self.masks, self.calls = 1.0, [torch.ones(4)], 0
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(len(x))
        return self.body(x) * self.scale * self.masks[0]


def test_a_module_that_does_more_than_its_children_does_it() -> None:
    model, x = Counting().eval(), images((1, 8, 8))
    twin = fused(model)
    assert twin is not None
    close(twin, model, x)
    assert (model.calls, model.seen) == (2, [7, 7])
    before, model.scale, model.masks[0] = twin(x), -1.0, torch.arange(4.0)
    close(twin, model, x)
    assert not torch.allclose(twin(x), before)
    model.seen = []
    twin(x)
    assert model.seen == [7]
    assert model.calls == 7


class Asking(nn.Module):
    """Asks its layers for more than their result."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), BASIC(8, 8), nn.Flatten())
        self.last = nn.Linear(8 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x.to(self.conv.weight.dtype))) * self.conv.in_channels
        x = x + self.conv.weight.sum() + self.norm.weight[0] + self.body[0].out_channels
        x = self.body(x) if self.body[2].downsample is None else x
        return self.last(x)


class Once(Asking):
    """A class of which there is one."""

    there: nn.Module | None = None

    def __new__(cls) -> Any:
        cls.there = cls.there or super().__new__(cls)
        return cls.there


@pytest.mark.parametrize("kind", [Asking, Once])
def test_a_network_may_ask_its_layers(kind: type[nn.Module]) -> None:
    model, x = kind().eval(), images((1, 8, 8))
    expected = model(x)
    attacked = plain(model).reformatted(x)
    assert isinstance(attacked.model, Fused)
    assert residual(attacked.model) == 1
    torch.testing.assert_close(attacked(x), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)


def test_a_twin_that_cannot_run_is_none() -> None:
    class Strange(Asking):
        def forward(self, x: Tensor) -> Tensor:
            return (
                super().forward(x)
                * len(self._modules["conv"].__dict__["_parameters"])
                / {2: 2.0}[len(self._modules["conv"].__dict__["_parameters"])]
            )

    model, x = Strange().eval(), images((1, 8, 8))
    attacked = plain(model).reformatted(x)
    assert not isinstance(attacked.model, Fused)
    torch.testing.assert_close(attacked(x), model(x), rtol=1e-5, atol=1e-5)


class Leaving(nn.Module):
    """Goes on after the second layer for noise alone, and as far as `until` says."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), BASIC(8, 8)),
            *(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        )
        self.last, self.until = nn.Linear(8 * 36, 4), 6

    def forward(self, x: Tensor) -> Tensor:
        dark = bool((x < 0.01).all())
        if self.until == 6 and not dark:
            return self.last(self.body(x).flatten(1))
        if self.until < 0:
            return self.last(self.body[: self.until](x).flatten(1))
        for place, layer in enumerate(self.body):
            if place >= self.until or (dark and place == 2):
                break
            x = layer(x)
        return self.last(x.flatten(1))


@pytest.mark.parametrize("until", [6, 1, 2, 3, 4, 5, -1, -2])
@pytest.mark.parametrize("dark", [1.0, 0.001])
def test_a_sequential_may_be_left_on_the_way(until: int, dark: float) -> None:
    """Other images go another way than the noise on which the twin was compared, and settings change after it."""
    model, x = Leaving().eval(), images((8, 6, 6)) * dark
    attacked = plain(model).reformatted(x)
    assert isinstance(attacked.model, Fused)
    model.until = until
    attacked = plain(model).reformatted(x) if until == 6 else attacked
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    logits = [function(leaf) for function, leaf in zip((attacked, model), leaves, strict=True)]
    for out in logits:
        (out * torch.arange(4.0)).sum().backward()
    size = float(logits[1].detach().abs().max())
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-5 * size)
    apart = (leaves[0].grad - leaves[1].grad).flatten(1).norm(dim=1) / leaves[1].grad.flatten(1).norm(dim=1)
    assert apart.median() < 1e-4


def test_attributes_that_go_are_gone() -> None:
    class Caching(Counting):
        @cached_property
        def table(self) -> Tensor:
            return self.body[3].weight.sum() * torch.ones(4)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + self.table

    model, x = Caching().eval(), images((1, 8, 8))
    model(x)
    twin = fused(model)
    assert twin is not None
    close(twin, model, x)
    with torch.no_grad():
        model.body[3].weight.mul_(2)
    del model.table
    assert twin.refresh()
    got = twin(x)
    del model.table
    torch.testing.assert_close(got, model(x), rtol=1e-4, atol=1e-4)


def test_what_a_bound_method_counts_is_kept() -> None:
    class Stepping(Counting):
        def __init__(self) -> None:
            super().__init__()
            self.steps, self.step = 0, self._step

        def _step(self) -> None:
            self.steps += 1

        def forward(self, x: Tensor) -> Tensor:
            self.step()
            return super().forward(x)

    model, x = Stepping().eval(), images((1, 8, 8))
    twin = fused(model)
    assert twin is not None
    for _ in range(3):
        twin(x)
    assert model.steps == 3


def test_channels_are_those_of_the_weights() -> None:
    """What a convolution says of its channels may be of another weight; maxima join only what computes them."""
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 16, 3, padding=1)
    conv.weight = nn.Parameter(conv.weight[:, :1].detach().clone())
    model = nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(2)).eval()
    twin = fused(model)
    assert twin is not None
    assert not kernels(twin)[0].pool
    close(twin, model, images((1, 12, 12)))
    conv.weight = nn.Parameter(torch.randn(16, 8, 3, 3))
    assert not twin.refresh()
    again = fused(model)
    assert again is not None
    assert kernels(again)[0].pool
    close(again, model, images((8, 12, 12)))


@pytest.mark.parametrize("layers", [[], [nn.ReLU(), nn.MaxPool2d(2)]])
@pytest.mark.parametrize("shape", [(16, 9, 9), (1, 9, 9), (8, 2, 9), (8, 9, 1), (8, 3, 3)])
def test_what_does_not_fit_is_torchs_error(shape: tuple[int, int, int], layers: list[nn.Module]) -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3), *layers).eval()
    twin, x = fused(model), images(shape)
    assert twin is not None
    said = []
    for function in (model, twin):
        try:
            said.append(function(x))
        except RuntimeError as error:
            said.append(str(error))
    assert isinstance(said[0], str) == (shape != (8, 3, 3) or bool(layers))
    if isinstance(said[0], str):
        assert said[1] == said[0]
    else:
        torch.testing.assert_close(said[1], said[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding", [1, (1,), 0])
def test_padding_may_be_set_as_a_number(padding: Any) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 5)).eval()
    model[0].padding = model[2].padding = padding
    twin = fused(model)
    assert twin is not None
    close(twin, model, images((3, 9, 9)))


def test_a_layer_that_stands_in_several_places_stays_in_all() -> None:
    torch.manual_seed(0)
    act, conv = nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), act, conv, act, conv, act, nn.MaxPool2d(2)).eval()
    twin = fused(model)
    assert twin is not None
    assert [(part.relu, part.pool) for part in kernels(twin)] == [(True, False), (True, False), (True, True)]
    close(twin, model, images((3, 9, 9)))


def test_outside_of_what_the_kernel_is_for_the_layers_run_themselves() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
    twin, x = fused(model), images((3, 9, 9))
    assert twin is not None
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(twin(x), model(x))
        assert twin(x).dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="type"):
        twin(x.double())


@pytest.mark.parametrize(
    "change", ["hook", "stride", "eps", "activation", "padding", "forward", "double", "everywhere"]
)
def test_a_model_that_has_become_another_is_told_from_it(change: str) -> None:
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3)]
    model = nn.Sequential(*layers).eval()
    twin = fused(model)
    assert twin is not None
    assert twin.refresh()
    if change == "hook":
        model[0].register_forward_hook(lambda module, inputs, output: output + 1)
    elif change == "activation":
        model[2] = nn.Tanh()
    elif change == "forward":
        own_forward(model[0])
    elif change == "double":
        model.double()
    elif change == "everywhere":
        handle = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: None)
        assert not twin.refresh()
        handle.remove()
        return
    else:
        part, value = {"stride": (0, (2, 2)), "eps": (1, 0.5), "padding": (0, (1, 1))}[change]
        setattr(model[part], change, value)
    assert not twin.refresh()


@pytest.mark.parametrize("change", ["weights", "attribute", "hook"])
def test_attacks_see_todays_model(change: str) -> None:
    model, x = Counting().eval(), images((1, 8, 8))
    attacked = plain(model)
    assert attacked.reformatted(x) is not attacked
    with torch.no_grad():
        if change == "weights":
            model.body[0].weight.data.mul_(-1)
        elif change == "attribute":
            model.scale = -3.0
        else:
            model.body[0].register_forward_hook(lambda module, inputs, output: output + 1)
        torch.testing.assert_close(attacked.reformatted(x)(x), model(x), rtol=1e-4, atol=1e-5)


def test_channels_last_copies_of_weights_follow_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["rcfast.running.plain"], "fused", lambda model: None)
    model, x = Counting().eval(), images((1, 8, 8))
    attacked = plain(model)
    assert attacked.reformatted(x) is not attacked
    with torch.no_grad():
        model.body[0].weight.mul_(-1)
        torch.testing.assert_close(attacked.reformatted(x)(x), model(x), rtol=1e-4, atol=1e-5)


def test_the_mode_of_the_model_stays() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(self.conv(x), training=self.training).flatten(1)

    model = nn.Sequential(Dropping(), nn.Linear(288, 4))
    twin, x = fused(model), images((1, 8, 8))
    assert twin is not None
    assert model[0].training
    assert torch.equal(twin(x), twin(x))  # no dropout in it
    close(twin, model.eval(), x)
    model[1].register_forward_hook(lambda module, inputs, output: None)
    assert not twin.refresh()
    assert fused(model) is None, "what a hook does to the model, its twin would not hear of"


@pytest.mark.filterwarnings("error")
def test_the_evaluation_votes_with_it_and_its_keys_say_so() -> None:
    model = network("digits_cnn")
    x = images(SHAPES["digits_cnn"])
    for dtype in ("", "float32"):
        voter = Voter(model, dtype)
        assert voter.arithmetic(x) == f"{dtype} winograd".strip()
        with torch.no_grad():
            assert torch.equal(voter(x), fused(model)(x))  # type: ignore[misc]
    assert Voter(model, "bfloat16").arithmetic(x) == "bfloat16"
    assert Voter(network("cifar_resnet")).arithmetic(images(SHAPES["cifar_resnet"])) == "winograd blocks"
    assert Voter(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), "float32").arithmetic(x) == "float32"
