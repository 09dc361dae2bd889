"""Shared fixtures: where the real data is, and why a test that needs more than this machine has is skipped."""

import os
from pathlib import Path

import pytest
import torch


def _mnist_root() -> Path | None:
    root = os.environ.get("RCFAST_DATA")
    return Path(root) if root and (Path(root) / "mnist.npz").is_file() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))
        if item.get_closest_marker("mnist") and _mnist_root() is None:
            item.add_marker(pytest.mark.skip(reason="RCFAST_DATA names no folder with mnist.npz"))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder that holds the real mnist.npz; only for tests marked mnist."""
    root = _mnist_root()
    assert root is not None
    return root
