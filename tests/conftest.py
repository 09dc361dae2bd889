"""Shared fixtures: where the real data is, and why a test that needs more than this machine has is skipped."""

import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch reads it, and for the processes that tests start
    _workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // _workers)))

# torch.compile's cache does not tell instruction sets apart: its code for AVX2, with AVX-512, writes beyond its ends.
os.environ.setdefault(
    "TORCHINDUCTOR_CACHE_DIR",
    str(
        Path(tempfile.gettempdir())
        / f"rcfast-inductor-{os.getuid()}-{os.environ.get('ATEN_CPU_CAPABILITY', 'all')}"
    ),
)

import pytest
import torch

from rcfast import data, models, training

# Files that take longest, so that none is begun when the others are done; those with slow tests come before them.
LONGEST = (
    *(
        "attacks_cw",
        "attacks_independence",
        "disk_full",
        "attacks_any_model",
        "docs",
        "checks",
        "eval_output",
    ),
    *("stopping", "attacks_external", "running", "eval_run", "native", "attacks_region", "sample_noise"),
    *("sample_hypercube", "training", "eval_report", "attacks_optmargin", "gpu_script", "attacks_inputs"),
)


def pytest_configure(config: pytest.Config) -> None:
    """With -n, a file stays with one worker, and so do its fixtures; in the order in which they are collected."""
    if getattr(config.option, "dist", "no") == "load":
        config.option.dist = "loadfile"
        config.option.loadscopereorder = False


def _root(*names: str) -> Path | None:
    """RCFAST_DATA if it holds one of these files."""
    root = os.environ.get("RCFAST_DATA")
    return Path(root) if root and any((Path(root) / name).is_file() for name in names) else None


def _mnist_root() -> Path | None:
    return _root("mnist.npz")


def _cifar10_root() -> Path | None:
    return _root("cifar10.npz", "cifar10/train_labels.npy")


@pytest.hookimpl(trylast=True)  # when tests that are not asked for have left
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    place = {f"test_{name}": i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (-slow[item.path], place.get(item.path.stem, len(place))))
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))
        if item.get_closest_marker("mnist") and _mnist_root() is None:
            item.add_marker(pytest.mark.skip(reason="RCFAST_DATA names no folder with mnist.npz"))
        if item.get_closest_marker("cifar10") and _cifar10_root() is None:
            item.add_marker(pytest.mark.skip(reason="RCFAST_DATA names no folder with CIFAR-10"))


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """No test may change the threads of those that follow, by which networks round, or switch gradients off."""
    before = torch.get_num_threads()
    yield
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert after == before, f"the test left {after} threads instead of {before}"
    assert torch.is_grad_enabled(), "the test left gradients switched off"


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder that holds the real mnist.npz; only for tests marked mnist."""
    root = _mnist_root()
    assert root is not None
    return root


@pytest.fixture(scope="session")
def cifar10_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that holds the real cifar10.npz; only for tests marked cifar10."""
    root = _cifar10_root()
    assert root is not None
    if (root / "cifar10.npz").is_file():
        return root
    out = tmp_path_factory.mktemp("cifar10")
    subprocess.run([sys.executable, root / "unpack.py", out, "cifar10"], check=True)  # from sheets of images
    return out


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Trainings that are compared to the last bit run on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits() -> data.Dataset:
    return data.load("digits")


@pytest.fixture(scope="module")
def trained(one_thread: None, digits: data.Dataset) -> training.TrainingResult:
    """The default network, trained on the digits with the default recipe."""
    return training.fit(models.digits_cnn(), digits.train, validation=digits.validation)


@pytest.fixture(scope="module")
def small() -> data.Split:
    """65 random images of 3x8x8 with four labels."""
    g = torch.Generator().manual_seed(0)
    return data.Split(torch.rand(65, 3, 8, 8, generator=g), torch.randint(4, (65,), generator=g))
