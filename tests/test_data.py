"""rcfast.data: what is read is what the file holds; a faulty file is refused by name and fault."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from rcfast import data
from rcfast.data import splits
from rcfast.eval import paper


def arrays(
    n: int = 60, shape: tuple[int, ...] = (6, 5), classes: int = 3, test: int = 12
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "x_train": rng.integers(0, 256, (n, *shape), dtype=np.uint8),
        "y_train": np.arange(n) % classes,
        "x_test": rng.integers(0, 256, (test, *shape), dtype=np.uint8),
        "y_test": np.arange(test) % classes,
    }


def write(path: Path, **changes: np.ndarray | None) -> Path:
    content = {key: value for key, value in {**arrays(), **changes}.items() if value is not None}
    np.savez(path, **content)
    return path


def changed(key: str, index: object, value: object, dtype: object = None) -> dict[str, np.ndarray]:
    array = arrays()[key].astype(dtype) if dtype else arrays()[key].copy()
    array[index] = value
    return {key: array}


def test_digits_are_all_there_once_and_split_as_said():
    from sklearn.datasets import load_digits

    digits = data.load()
    assert (digits.name, digits.num_classes, digits.shape) == ("digits", 10, (1, 8, 8))
    sizes = len(digits.train), len(digits.validation), len(digits.test)
    assert sizes == (1198, 239, 360)
    splits = (digits.train, digits.validation, digits.test)
    ours = torch.cat([split.x.flatten(1) for split in splits]).numpy() * 16
    labels = torch.cat([split.y for split in splits]).numpy()
    images, target = load_digits(return_X_y=True)
    both = [
        np.unique(np.column_stack(pair), axis=0, return_counts=True)
        for pair in ((ours, labels), (images, target))
    ]
    assert all(np.array_equal(a, b) for a, b in zip(*both, strict=True))
    for split in splits:
        assert split.x.dtype == torch.float32
        assert split.y.dtype == torch.int64
        assert split.x.min() == 0
        assert split.x.max() == 1
        assert set(split.y.tolist()) == set(range(10))


def test_seed_moves_validation_and_leaves_test_alone():
    first, again, other = data.load("digits"), data.load("digits"), data.load("digits", seed=1)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert first.test.fingerprint == other.test.fingerprint
    assert first.validation.fingerprint != other.validation.fingerprint
    assert len(data.load("digits", validation=100).validation) == 100


def test_the_random_split_is_the_same_on_every_machine():
    # Computed once from PCG64's raw stream, which NumPy keeps as it is.
    assert splits.shuffled(8, 0).tolist() == [3, 2, 1, 6, 0, 7, 4, 5]


@pytest.mark.parametrize(("n", "held"), [(60, 10), (6, 1), (40_000, 5_000)])
def test_default_validation_is_a_sixth_at_most_5000(tmp_path, n, held):
    x = np.random.default_rng(0).integers(0, 256, (n, 1, 1), dtype=np.uint8)
    y = np.arange(n) % 3
    path = write(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x[:6], y_test=y[:6])
    assert len(data.load(path).validation) == held


def test_npz_keeps_pixels_and_labels(tmp_path):
    content = arrays(shape=(6, 5, 3))
    loaded = data.load(write(tmp_path / "own.npz", **content))
    assert (loaded.name, loaded.num_classes, loaded.shape) == ("own", 3, (3, 6, 5))
    np.testing.assert_array_equal(loaded.test.y, content["y_test"])
    expected = content["x_test"].transpose(0, 3, 1, 2).astype(np.float64) / 255
    np.testing.assert_allclose(loaded.test.x, expected, rtol=1e-7)
    assert loaded.test.x.is_contiguous()
    stored = {row.tobytes(): label for row, label in zip(content["x_train"], content["y_train"], strict=True)}
    for split in (loaded.train, loaded.validation):
        for image, label in zip(split.x, split.y, strict=True):
            pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            assert stored[pixels.tobytes()] == label


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_images_are_taken_as_they_are(tmp_path, dtype):
    x = np.linspace(0, 1, 60 * 30).reshape(60, 6, 5).astype(dtype)
    loaded = data.load(write(tmp_path / "a.npz", x_train=x, x_test=x[:12]))
    np.testing.assert_array_equal(loaded.test.x[:, 0], x[:12].astype(np.float32))


def test_column_of_labels_and_rounding_beyond_1_are_accepted(tmp_path):
    x = changed("x_test", ..., 0.5, np.float64)["x_test"]
    x[0, 0, 0] = 1 + 1e-9
    loaded = data.load(
        write(tmp_path / "a.npz", x_test=x, y_train=arrays()["y_train"][:, None].astype(np.uint8))
    )
    assert loaded.test.x.max() == 1
    assert loaded.train.y.shape == (50,)


def test_root_argument_then_environment_then_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RCFAST_DATA", str(tmp_path / "env"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data.data_root(tmp_path) == tmp_path
    assert data.data_root() == tmp_path / "env"
    monkeypatch.delenv("RCFAST_DATA")
    assert data.data_root() == tmp_path / "cache" / "rcfast"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert data.data_root() == Path.home() / ".cache" / "rcfast"


@pytest.fixture
def small_mnist(monkeypatch) -> None:
    """Let MNIST be the size of `arrays(shape=(28, 28), classes=10)`."""
    monkeypatch.setitem(data.PUBLISHED, "mnist", (60, 12, (1, 28, 28)))


def test_named_set_comes_from_root(tmp_path, monkeypatch, small_mnist):
    content = arrays(shape=(28, 28), classes=10)
    np.savez(tmp_path / "mnist.npz", **content)
    monkeypatch.setenv("RCFAST_DATA", str(tmp_path))
    assert data.load("mnist").fingerprint == data.load("mnist", tmp_path).fingerprint
    assert data.load("mnist").shape == (1, 28, 28)
    assert data.load("mnist").name == data.load("mnist.npz", tmp_path).name == "mnist"


SAID = {
    "mnist": "mnist has 60000 training and 10000 test images of shape (C,H,W) = (1, 28, 28)",
    "cifar10": "cifar10 has 50000 training and 10000 test images of shape (C,H,W) = (3, 32, 32)",
}
WRONG_SIZES = {
    "a part of mnist": ("mnist", {"shape": (28, 28)}, "60 training and 12 test images"),
    "mnist of another shape": ("mnist", {}, "60 training and 12 test images of shape (C,H,W) = (1, 6, 5)"),
    "mnist with a short test set": ("mnist", {"n": 60_000, "shape": (28, 28)}, "60000 training and 12 test"),
    "a part of cifar10": ("cifar10", {"shape": (32, 32, 3)}, "60 training and 12 test images"),
}


@pytest.mark.parametrize(("name", "content", "found"), WRONG_SIZES.values(), ids=WRONG_SIZES.keys())
def test_a_named_set_of_another_size_is_refused(tmp_path, name, content, found):
    path = tmp_path / f"{name}.npz"
    np.savez(path, **arrays(**{"classes": 10, **content}))
    with pytest.raises(ValueError, match=re.escape(f"{path}: {SAID[name]}, this file {found}")):
        data.load(name, tmp_path)


@pytest.mark.parametrize("name", data.NAMES)
def test_a_users_file_is_not_taken_for_the_set_of_its_name(tmp_path, name):
    own = data.load(write(tmp_path / f"{name}.npz"))
    assert own.name == f"{name}.npz"
    assert not paper.publishes(own.name)
    assert own.num_classes == 3


@pytest.mark.parametrize("dtype", [">f4", "<f8", ">f8", "f2", np.longdouble])
def test_any_byte_order_and_precision_of_floats(tmp_path, dtype):
    x = {key: (arrays()[key] / 256).astype(dtype) for key in ("x_train", "x_test")}
    found = data.load(write(tmp_path / "a.npz", **x, y_train=arrays()["y_train"].astype(">i8")))
    assert found.test.x.dtype == torch.float32
    expected = torch.from_numpy(x["x_test"].astype(np.float64)).float()
    assert torch.equal(found.test.x[:, 0], expected)


def test_labels_may_be_missing_where_a_network_knows_more(tmp_path):
    y = {key: np.array([3, 7, 999])[arrays()[key]] for key in ("y_train", "y_test")}
    path = write(tmp_path / "a.npz", **y)
    with pytest.raises(ValueError, match="label 0 has no example"):
        data.load(path)
    assert data.load(path, classes=1000).num_classes == 1000
    assert data.load(path, some_classes=True).num_classes == 1000
    with pytest.raises(ValueError, match=r"y_train must lie in \[0, 998\], got 999"):
        data.load(path, classes=999)


FAULTS = {
    "missing key": ({"y_test": None}, "missing y_test"),
    "vectors": (
        {"x_train": np.zeros((60, 30), np.uint8)},
        r"x_train must be \[N,H,W\] or \[N,H,W,C\].*\[60, 30\]",
    ),
    "channels first": (
        {"x_train": np.zeros((60, 3, 32, 32), np.uint8)},
        r"x_train must have its channels last, got shape \[60, 3, 32, 32\]: use array.transpose\(0, 2, 3, 1\)",
    ),
    "small channels first": (
        {"x_train": np.zeros((60, 3, 4, 4), np.uint8)},
        "x_train must have its channels last",
    ),
    "integers": ({"x_train": arrays()["x_train"].astype(np.int64)}, "x_train must be uint8 or float.*int64"),
    "float 0 to 255": (
        {"x_test": arrays()["x_test"].astype(np.float32)},
        r"x_test must lie in \[0, 1\], got values",
    ),
    "negative": (
        changed("x_train", ..., -0.5, np.float32),
        r"x_train must lie in \[0, 1\], got values from -0.5",
    ),
    "NaN": (
        changed("x_test", (3, 1, 2), np.nan, np.float32),
        r"x_test must be finite, got nan at \[3, 1, 2, 0\]",
    ),
    "infinite": (changed("x_test", (3, 1, 2), np.inf, np.float64), "x_test must be finite, got inf"),
    "uint8 of 0 and 1": ({"x_train": np.ones((60, 6, 5), np.uint8)}, "x_train is uint8 with maximum 1"),
    "one label short": ({"y_train": arrays()["y_train"][1:]}, r"y_train must be \[60\].*\[59\]"),
    "one-hot labels": ({"y_test": np.eye(3)[arrays()["y_test"]]}, r"y_test must be \[12\].*\[12, 3\]"),
    "float labels": ({"y_test": arrays()["y_test"].astype(float)}, "y_test must be integers, got float64"),
    "bool labels": ({"y_test": arrays()["y_test"] > 0}, "y_test must be integers, got bool"),
    "unknown test label": (changed("y_test", 5, 7), r"y_test must lie in \[0, 2\], got 7 at index 5"),
    "negative label": (changed("y_train", 4, -1), r"y_train must lie in \[0, 2\], got -1 at index 4"),
    "labels from 1": (
        {"y_train": arrays()["y_train"] + 1},
        "y_train must hold every label.*label 0 has no example",
    ),
    "one label": ({"y_train": np.zeros(60, int), "y_test": np.zeros(12, int)}, "there is only one label"),
    "other test shape": ({"x_test": np.zeros((12, 7, 5), np.float32)}, "must have one shape"),
    "no images": (
        {"x_test": np.zeros((0, 6, 5), np.uint8), "y_test": np.zeros(0, int)},
        "x_test must be.*not empty",
    ),
    "pickled objects": ({"y_train": np.array([0, 1, 2] * 20, dtype=object)}, "y_train is not a plain array"),
}


@pytest.mark.parametrize(("changes", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_faulty_content_is_refused(tmp_path, changes, message):
    path = write(tmp_path / "faulty.npz", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        data.load(path)
    assert str(path) in str(caught.value)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_pixel(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[900] ^= 1  # inside the stored pixels of x_train: only the checksum can tell
    path.write_bytes(content)


def text(path: Path) -> None:
    path.write_text("<html>404</html>")


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, halve, flip_pixel, text, empty])
@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_file_is_refused(tmp_path, damage, compressed):
    path = tmp_path / "damaged.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays())
    damage(path)
    with pytest.raises(ValueError, match=r"damaged\.npz: truncated or damaged"):
        data.load(path)


ARGUMENTS = {
    "unknown name": (
        ("mnits",),
        {},
        ValueError,
        "unknown data set 'mnits': expected one of digits, mnist, cifar10",
    ),
    "absent file": (("absent.npz",), {}, FileNotFoundError, "absent.npz: no such file"),
    "validation of 0": (
        ("digits",),
        {"validation": 0},
        ValueError,
        r"validation must be .*\[1, 1436\], got 0",
    ),
    "all is validation": (("digits",), {"validation": 1437}, ValueError, "validation must be .* got 1437"),
    "a share": (("digits",), {"validation": 0.1}, ValueError, "validation must be an integer"),
    "a size of arrays": (
        ("digits",),
        {"size": 32},
        ValueError,
        "size is of images in folders or Parquet, .* size = 32",
    ),
    "negative seed": (("digits",), {"seed": -1}, ValueError, "seed must be an integer >= 0, got -1"),
}


@pytest.mark.parametrize(("args", "kwargs", "error", "message"), ARGUMENTS.values(), ids=ARGUMENTS.keys())
def test_bad_arguments(args, kwargs, error, message):
    with pytest.raises(error, match=message):
        data.load(*args, **kwargs)


class FakeMNIST:
    def __init__(self, root: str, *, train: bool, download: bool) -> None:
        assert download
        Path(root, "raw").mkdir(exist_ok=True)
        content, part = arrays(shape=(28, 28), classes=10), "train" if train else "test"
        self.data, self.targets = (torch.from_numpy(content[f"{key}_{part}"]) for key in "xy")


class Offline:
    def __init__(self, root: str, **_: object) -> None:
        Path(root, "half").write_text("half a download")
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")


def test_download_is_kept_as_one_file(tmp_path, monkeypatch, small_mnist):
    monkeypatch.setattr("torchvision.datasets.MNIST", FakeMNIST)
    first = data.load("mnist", tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mnist.npz"]
    monkeypatch.setattr("torchvision.datasets.MNIST", Offline)
    assert data.load("mnist", tmp_path / "new").fingerprint == first.fingerprint


def test_failed_download_leaves_nothing_and_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR10", Offline)
    with pytest.raises(
        OSError, match=r"(?s)cifar10 is not at .*Error downloading.*put cifar10.npz .*RCFAST_DATA"
    ):
        data.load("cifar10", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.mnist
def test_real_mnist_has_the_sizes_of_table_2(data_root):
    mnist = data.load("mnist", data_root)
    assert (len(mnist.train), len(mnist.validation), len(mnist.test)) == (55_000, 5_000, 10_000)
    # Counts of each digit in the test set, as published.
    assert torch.bincount(mnist.test.y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    both = torch.cat([mnist.train.y, mnist.validation.y])
    assert torch.bincount(both).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


@pytest.mark.slow  # unpacked from sheets of images
@pytest.mark.cifar10
def test_real_cifar10_has_the_sizes_of_table_2(cifar10_root):
    cifar10 = data.load("cifar10", cifar10_root)
    assert (len(cifar10.train), len(cifar10.validation), len(cifar10.test)) == paper.split("cifar10")
    assert (cifar10.name, cifar10.num_classes, cifar10.shape) == ("cifar10", 10, (3, 32, 32))
    assert torch.bincount(cifar10.test.y).tolist() == [1000] * 10
    both = torch.cat([cifar10.train.y, cifar10.validation.y])
    assert torch.bincount(both).tolist() == [5000] * 10
    # Mean of each channel over the training images, as commonly published (0.4914, 0.4822, 0.4465).
    train, held = (split.x.double().mean((0, 2, 3)) for split in (cifar10.train, cifar10.validation))
    mean = (0.9 * train + 0.1 * held).tolist()
    assert mean == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)
