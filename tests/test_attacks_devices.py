"""What a GPU needs of the attacks: iterations that do not wait for it, and the results of the CPU."""

import pytest
import torch
from attack_models import inputs, network, other_targets, predicted
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from rcfast import RegionClassifier
from rcfast.attacks import ATTACKS, CWL0, CWL2, IGSM, CWLinf, DeepFool, RegionCW, get
from rcfast.attacks import attacked as attacked_module
from rcfast.attacks._passes import Searched
from rcfast.attacks.attacked import AttackedModel

WAITS = {
    "_local_scalar_dense",
    "item",
    "nonzero",
    "masked_select",
    "equal",
    "is_nonzero",
    "unique2",
    "bincount",
}


class NoWaiting(TorchDispatchMode):
    """Refuses the operators for which the host has to wait for a GPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = name in ("index", "index_put", "index_put_") and any(
            i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        assert not masks, f"{name} with a mask waits"
        assert name not in WAITS, f"{name} waits"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("attack", [CWL2(), CWLinf(), CWL0(), IGSM()], ids=lambda a: type(a).__name__)
def test_an_iteration_does_not_wait_for_the_device(attack, monkeypatch):
    monkeypatch.setattr(attacked_module, "_told_at_once", lambda device: False)
    model, x = network(), inputs(6, 12)
    target = other_targets(predicted(model, x), 4)
    attacked = AttackedModel(model, num_classes=4, limit=6, queries=torch.zeros(6, dtype=torch.int64))
    attacked.gradients(
        x, torch.arange(6), lambda z: z.sum(1)
    )  # the first call of an attack may look at its slopes
    state = attack._start(torch.arange(6), x, target)
    with torch.no_grad(), NoWaiting():
        for _ in range(3):
            if isinstance(attack, IGSM):
                attack._iterate(attacked, state)
            elif isinstance(attack, CWL2):
                attack._step(Searched(attacked, attacked), state, 100)
            else:
                attack._step(Searched(attacked, attacked), state)
    with pytest.raises(AssertionError, match="waits"), NoWaiting():
        bool(x.sum() > 0)


def test_float32_has_all_its_bits_while_an_attack_runs(monkeypatch):
    """With TF32, 15 of 100 of DeepFool's examples and 6 of 100 of CW-L2's were none in another batch (H100, H200)."""
    model, seen = network(), []
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    model.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    x = inputs(2, 12)
    for attack in (DeepFool(), CWL2.fast(), RegionCW(steps=2)):
        labels = predicted(model, x)
        asked = RegionClassifier(model, 0.05, m=20) if isinstance(attack, RegionCW) else model
        seen.clear()
        attack(asked, x, other_targets(labels, 4) if attack.targeted else labels)
        assert seen
        assert not any(seen)
    assert torch.backends.cudnn.allow_tf32


@pytest.mark.gpu
def test_on_a_gpu_successes_are_those_of_any_batch():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 676, 10)).eval()
    x = torch.rand(40, 1, 28, 28)
    found = DeepFool()(model.cuda(), x.cuda(), predicted(model, x.cuda()))
    assert found.success.float().mean() > 0.9
    single = torch.cat([model.cpu()(one[None]).argmax(1) for one in found.adversarial.cpu()])
    assert (single != predicted(model, x))[found.success.cpu()].all()


@pytest.mark.gpu
@pytest.mark.parametrize("name", [n for n in ATTACKS if "-CA-" not in n])  # made of the others
def test_cuda_finds_what_the_cpu_finds(name):
    attack = get(name, budget="fast")
    model, x = network(), inputs(8, 12)
    labels = predicted(model, x)
    if attack.targeted:
        labels = other_targets(labels, 4)
    here = attack(model, x, labels)
    there = attack(model.cuda(), x.cuda(), labels.cuda())
    assert there.adversarial.is_cuda
    assert torch.equal(there.success.cpu(), here.success)
    ours, theirs = here.noise.of(attack.norm), there.noise.of(attack.norm).cpu()
    torch.testing.assert_close(theirs, ours, rtol=0.02, atol=1.0 if attack.norm == 0 else 1e-3)
