"""What attacks take of the memory that is free: the limits of the system, and what is held under them."""

from pathlib import Path

import pytest
import torch
from attack_models import predicted
from live_memory import Live
from marks import slow_where
from torch import nn

from rcfast import RegionClassifier
from rcfast.attacks import APGD, IGSM, OptMargin, RegionCW
from rcfast.attacks import memory as attack_memory

MIB, GIB = 1 << 20, 1 << 30
MEMINFO = {"proc/meminfo": "MemTotal: 33554432 kB\nMemAvailable: 16777216 kB\nHugePages_Total: 0\n"}


def v1(folder: str, limit: int, used: int, dropped: int = 0) -> dict[str, str]:
    return {
        f"sys/fs/cgroup/memory{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"sys/fs/cgroup/memory{folder}/memory.usage_in_bytes": f"{used}\n",
        f"sys/fs/cgroup/memory{folder}/memory.stat": f"inactive_file 7\ntotal_inactive_file {dropped}\n",
    }


def v2(folder: str, limit: int | str, used: int, dropped: int = 0) -> dict[str, str]:
    return {
        f"sys/fs/cgroup{folder}/memory.max": f"{limit}\n",
        f"sys/fs/cgroup{folder}/memory.current": f"{used}\n",
        f"sys/fs/cgroup{folder}/memory.stat": f"anon 5\ninactive_file {dropped}\n",
    }


V1, V2 = {"proc/self/cgroup": "5:cpu,memory:/job/step\n0::/\n"}, {"proc/self/cgroup": "0::/job/step\n"}
NONE = 0x7FFFFFFFFFFFF000


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 2 * GIB),  # no system that tells
        (MEMINFO, 16 * GIB),
        (MEMINFO | V1 | v1("/job/step", 3 * GIB, GIB), 2 * GIB),
        (MEMINFO | V2 | v2("/job/step", 3 * GIB, GIB), 2 * GIB),
        (MEMINFO | V1 | v1("/job/step", NONE, GIB) | v1("/job", 4 * GIB, GIB), 3 * GIB),
        (MEMINFO | V2 | v2("/job/step", "max", GIB) | v2("/job", 4 * GIB, GIB), 3 * GIB),
        (MEMINFO | V1 | v1("", 3 * GIB, GIB), 2 * GIB),  # a container, whose own path is that of the host
        (MEMINFO | V2 | v2("", 3 * GIB, GIB), 2 * GIB),
        (MEMINFO | V1 | v1("/job/step", 3 * GIB, 3 * GIB, 2 * GIB), 2 * GIB),  # pages of files, that may go
        (MEMINFO | V2 | v2("/job/step", 3 * GIB, 3 * GIB, 2 * GIB), 2 * GIB),
        (MEMINFO | V1 | v1("/job/step", 3 * GIB, 4 * GIB), 0),
        (MEMINFO | V1 | v1("/job/step", NONE, GIB), 16 * GIB),
        (MEMINFO | V2 | v1("/other", GIB, 0) | v2("/other", GIB, 0), 16 * GIB),
        (
            MEMINFO
            | {
                "proc/self/limits": f"Limit Soft Limit Hard Limit Units\nMax address space {4 * GIB} unlimited bytes\n",
                "proc/self/statm": "0 0 0\n",
            },
            4 * GIB,
        ),
    ],
)
def test_the_limits_of_the_system_are_kept(files: dict[str, str], free: int, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert attack_memory.free_of_system(tmp_path) == free


ON_VOTES = (
    RegionCW(steps=3, points=8, votes=20, start=None),
    RegionCW(steps=3, points=8, votes=20, start=None, loss="probability", norm=float("inf")),
    APGD(eps=0.1, steps=3, eot=8),
    OptMargin(iterations=3, searches=2, directions=7),
)


def deep() -> nn.Sequential:
    """A row saves 20 times what its input takes."""
    torch.manual_seed(0)
    body = [layer for _ in range(10) for layer in (nn.Linear(768, 768), nn.Tanh())]
    return nn.Sequential(nn.Flatten(), *body, nn.Linear(768, 10)).eval()


@pytest.mark.parametrize(
    "attack", slow_where(lambda attack: not isinstance(attack, OptMargin), ON_VOTES), ids=repr
)
def test_one_example_on_many_points_keeps_to_half_of_the_free_memory(
    attack: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where not all of its points fit into one pass; and it is the same attack."""
    model, x = deep(), torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    vote = RegionClassifier(model, 0.05, m=20, chunk=4)
    said = predicted(model, x)
    labels = (said + 1) % 10 if attack.targeted else said  # type: ignore[attr-defined]
    plenty = attack(vote, x, labels)  # type: ignore[operator]
    free = 800 * x[0].nbytes
    monkeypatch.setattr(attack_memory, "free_bytes", lambda device: free)
    assert 1 < attack_memory.rows_that_fit(model, x) < 8
    with Live() as live:
        found = attack(vote, x, labels)  # type: ignore[operator]
    assert live.peak <= free / 2
    assert torch.equal(found.success, plenty.success)
    torch.testing.assert_close(found.adversarial, plenty.adversarial, rtol=0, atol=1e-4)
    assert (found.queries >= plenty.queries).all()


@pytest.mark.slow
def test_faster_convolutions_are_left_out_where_their_weights_take_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 64, 3),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1024, 10),
    ]
    model, x = nn.Sequential(*layers).eval(), torch.rand(4, 3, 8, 8)
    targets = (predicted(model, x) + 1) % 10
    with Live() as live:
        plenty = IGSM(iterations=4)(model, x, targets)
    free = 2 * MIB
    assert live.peak > free / 2
    monkeypatch.setattr(attack_memory, "free_bytes", lambda device: free)
    with Live() as live:
        found = IGSM(iterations=4)(model, x, targets)
    assert live.peak <= free / 2
    assert torch.equal(found.success, plenty.success)
    torch.testing.assert_close(found.adversarial, plenty.adversarial, rtol=0, atol=1e-4)


def test_a_lazy_convolution_is_refused_and_not_weighed() -> None:
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(10)).eval()
    with pytest.raises(ValueError, match=r"lazy layer without weights, 0 \(LazyConv2d\)"):
        IGSM()(model, torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64))
