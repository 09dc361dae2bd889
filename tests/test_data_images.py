"""Folders of images and Parquet: decoded once by workers, kept on disk, read as what the files hold."""

import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import people
import photographs
import pytest
import torch
from PIL import Image
from torchvision.transforms._presets import ImageClassification

from rcfast import data, decoding, learn_length
from rcfast.data import folder, images
from rcfast.decoding import Preparation


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(decoding, "cores", lambda: 1)  # but for the test of worker processes
    return tmp_path / "cache" / "rcfast" / "decoded"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    photographs.write(tmp_path / "photos" / "train", 6)
    photographs.write(tmp_path / "photos" / "val", 3, seed=500)
    return tmp_path / "photos"


def pixels(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).permute(2, 0, 1) / 255


# ---- what is read


def test_a_folder_holds_what_its_files_hold(photos: Path) -> None:
    found = data.load(photos)
    assert (found.name, found.num_classes, found.shape) == ("photos", 4, (3, 48, 48))
    assert found.classes == photographs.CLASSES
    assert (len(found.train), len(found.validation), len(found.test)) == (20, 4, 12)
    files = [photos / "val" / name / f"{k:03}.png" for name in photographs.CLASSES for k in range(3)]
    assert torch.equal(found.test.x[:], torch.stack([pixels(file) for file in files]))
    assert found.test.y.tolist() == [label for label in range(4) for _ in range(3)]
    assert found.test.x[:].dtype == torch.float32


def test_reading_by_index_slice_and_piece(photos: Path) -> None:
    x = data.load(photos).test.x
    assert isinstance(x, data.Images)
    whole = x[:]
    assert torch.equal(x[5], whole[5])
    assert torch.equal(x[-1], whole[-1])
    assert torch.equal(x[torch.tensor([7, 0, 7])], whole[[7, 0, 7]])
    assert torch.equal(torch.cat(list(x.split(5))), whole)
    assert torch.equal(x.take(np.array([3, 1]))[:], whole[[3, 1]])
    assert (len(x), x.shape, x.ndim) == (12, torch.Size([12, 3, 48, 48]), 4)
    assert torch.equal(x.to("cpu"), whole)
    assert x[:0].shape == (0, 3, 48, 48)


@pytest.mark.parametrize("size", [(90, 64), (64, 90), (71, 53)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_images_are_prepared_as_torchvision_does(size: tuple[int, int], interpolation: str) -> None:
    image = photographs.crop("flower", 0, 100).resize(size)
    ours = Preparation(32, 32, resize=40, interpolation=interpolation)(image)
    preset = ImageClassification(
        crop_size=32, resize_size=40, mean=(0, 0, 0), std=(1, 1, 1), interpolation=_mode(interpolation)
    )
    assert torch.equal(torch.from_numpy(ours.copy()) / 255, preset(image))


def _mode(name: str) -> Any:
    from torchvision.transforms import InterpolationMode

    return InterpolationMode(name)


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [
        (("train", "val"), (20, 4, 12)),
        (("train", "test"), (20, 4, 12)),
        (("train", "val", "test"), (24, 12, 12)),
        (("Train", "Valid"), (20, 4, 12)),
        (("training", "testing"), (20, 4, 12)),
        (("val",), (9, 1, 2)),
        ((), (17, 3, 4)),
    ],
)
def test_layouts(tmp_path: Path, parts: tuple[str, ...], sizes: tuple[int, int, int]) -> None:
    root = tmp_path / "set"
    for k, part in enumerate(parts or ("",)):
        photographs.write(root / part, 3 if k or part == "val" else 6, side=16, seed=100 * k)
    found = data.load(root)
    assert (len(found.train), len(found.validation), len(found.test)) == sizes
    assert data.load(root, seed=1).test.fingerprint == found.test.fingerprint
    assert data.load(root, seed=1).fingerprint != found.fingerprint or len(parts) == 3


def test_parts_of_the_set_may_be_asked_for(photos: Path) -> None:
    found = data.load(photos, validation=3, test=5)
    assert (len(found.train), len(found.validation), len(found.test)) == (21, 3, 5)
    assert data.load(photos, test=5, seed=1).test.fingerprint != found.test.fingerprint
    with pytest.raises(ValueError, match=r"test must lie in \[1, 12\], the examples that are there, got 13"):
        data.load(photos, test=13)
    photographs.write(photos / "test", 3, seed=900)
    for count in (-1, 0):
        with pytest.raises(ValueError, match=rf"validation must lie in \[1, 12\], .* got {count}"):
            data.load(photos, validation=count)


def test_sizes_and_channels(tmp_path: Path) -> None:
    root = tmp_path / "set"
    photographs.write(root, 3, side=20)
    photographs.crop("sky", 9, 31).save(root / "sky" / "odd.png")
    with pytest.raises(ValueError, match=r"images differ in size, .*000.png is 20×20, .*odd.png is 31×31"):
        data.load(root)
    assert data.load(root, size=16).shape == (3, 16, 16)
    told = Preparation(12, 14, resize=(18, 18), channels=1)
    assert data.load(root, preparation=told).shape == (1, 12, 14)
    (root / "sky" / "odd.png").unlink()
    for file in root.rglob("*.png"):
        Image.open(file).convert("L").save(file)
    assert data.load(root).shape == (1, 20, 20)


# ---- the cache


def test_decoding_happens_once_and_goes_on_after_an_interruption(
    photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "rows_of_a_part", lambda count, size: 5)
    monkeypatch.setattr(images, "in_processes", lambda function, tasks, advance: [function(t) for t in tasks])
    first = data.load(photos).fingerprint
    parts = sorted(cache.rglob("part-????????.npy"))
    assert len(parts) == 5 + 3
    times = {part: part.stat().st_mtime_ns for part in parts}
    assert data.load(photos).fingerprint == first
    parts[2].unlink()
    calls = []
    monkeypatch.setattr(images, "write", lambda part: (calls.append(part.target), decoding.write(part)))
    assert data.load(photos).fingerprint == first
    assert calls == [str(parts[2])]
    assert all(part.stat().st_mtime_ns == times[part] for part in parts if part != parts[2])


def test_a_changed_image_is_decoded_anew(photos: Path) -> None:
    before = data.load(photos)
    photographs.crop("sky", 77, 48).save(photos / "val" / "sky" / "001.png")
    after = data.load(photos)
    assert after.test.fingerprint != before.test.fingerprint
    assert after.train.fingerprint == before.train.fingerprint


def test_workers_give_the_same_as_one_process(
    photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(images, "rows_of_a_part", lambda count, size: 5)
    monkeypatch.setattr(decoding, "cores", lambda: 2)
    parallel = data.load(photos).fingerprint
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    monkeypatch.setattr(decoding, "cores", lambda: 1)
    assert data.load(photos).fingerprint == parallel


def test_a_full_disk_is_said_before_work(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images.shutil, "disk_usage", lambda path: SimpleNamespace(free=1))
    with pytest.raises(
        OSError, match=r"decoded images take 0.0 GB, 0.0 GB are free; XDG_CACHE_HOME moves them"
    ):
        data.load(photos)


# ---- what is refused


def deep_colours() -> bytes:
    """A PNG of 48×48 pixels with 16 bits in each of three channels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    rows = zlib.compress((b"\0" + bytes(48 * 6)) * 48)
    head = struct.pack(">IIBBBBB", 48, 48, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "train/sky/001.png").write_bytes(b"no image"), r"001.png: cannot be decoded"),
        (lambda root: (root / "val/stranger").mkdir(), "'stranger' is no class of .*train"),
        (lambda root: [f.unlink() for f in (root / "train/sky").iterdir()], r"train/sky: no images \(.jpg"),
        (lambda root: (root / "valid").mkdir(), "val and valid are both there: which one is it"),
        (
            lambda root: Image.fromarray(np.zeros((48, 48), np.uint16)).save(root / "train/sky/001.png"),
            "001.png: has more than 8 bits a channel",
        ),
        (
            lambda root: (root / "train/sky/001.png").write_bytes(deep_colours()),
            "001.png: has more than 8 bits a channel",
        ),
    ],
)
def test_faults_are_named(photos: Path, spoil: Any, message: str) -> None:
    spoil(photos)
    with pytest.raises(ValueError, match=message):
        data.load(photos)


def test_nothing_half_written_stays(photos: Path, cache: Path) -> None:
    (photos / "val/sky/001.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"cannot be decoded"):
        data.load(photos, size=16)
    assert not list(cache.rglob("*.part"))


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such file or folder"):
        data.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no folders, one for each class"):
        data.load(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"test must be an integer >= 1, got 0"):
        data.load("digits", test=0)


# ---- classes


@pytest.mark.parametrize(
    ("names", "classes", "order"),
    [
        (["10", "2"], None, [0, 1]),  # as torchvision's ImageFolder: in the order of the names
        (["Sky", "big_wall"], ["big wall", "roof", "sky"], [2, 0]),
        (["3", "7", "999"], 1000, [3, 7, 999]),
        (["3", "7", "999"], [f"class {k}" for k in range(1000)], [3, 7, 999]),
        (["a", "b", "c"], 3, [0, 1, 2]),
        (["cat", "dog"], ["dog", "cat"], [1, 0]),
    ],
)
def test_classes_are_found_by_name_number_or_order(names: Any, classes: Any, order: list[int]) -> None:
    assert folder.numbered(names, classes, "set")[0] == order


def test_wordnet_ids_are_imagenet_s() -> None:
    pytest.importorskip("timm")
    assert folder.numbered(["n01440764", "n15075141"], 1000, "set")[0] == [0, 999]


def test_classes_that_the_network_does_not_know_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"the network has 3 classes, the data 2, and 'eel' is the name of none"
    ):
        folder.numbered(["cat", "eel"], ["cat", "dog", "cow"], "set")


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["cats", "dog"], ["dog", "cat"]),  # their order would call the cats dogs
        (sorted(map(str, range(1, 11))), 10),  # numbers from 1
        (["crane", "eel"], ["crane", "crane"]),
    ],
)
def test_an_order_that_would_swap_names_is_refused(names: list[str], classes: Any) -> None:
    if classes == ["crane", "crane"]:  # a name of two classes stands for none: the order is all there is
        assert folder.numbered(names, classes, "set")[0] == [0, 1]
        return
    with pytest.raises(ValueError, match=r"is the name of none of them"):
        folder.numbered(names, classes, "set")


def test_a_part_of_the_classes(photos: Path) -> None:
    found = data.load(photos, classes=["x", "wall", "sky", "y", "roof", "flower", "z"])
    assert found.num_classes == 7
    assert sorted(set(found.test.y.tolist())) == [1, 2, 4, 5]


# ---- Parquet


@pytest.mark.parametrize("struct", [True, False])
def test_parquet_holds_images_and_labels(tmp_path: Path, struct: bool) -> None:
    root, labels = tmp_path / "hub", [k % 4 for k in range(24)]
    for shard in (0, 1):
        people.write_table(
            root / "data" / f"train-0000{shard}-of-00002.parquet", labels, struct=struct, seed=100 * shard
        )
    people.write_table(root / "data" / "test-00000-of-00001.parquet", labels[:9], struct=struct, seed=500)
    found = data.load(root)
    assert (len(found.train), len(found.validation), len(found.test)) == (40, 8, 9)
    assert found.classes == photographs.CLASSES
    expected = [
        np.asarray(photographs.crop(photographs.CLASSES[y], 500 + k, 24)) for k, y in enumerate(labels[:9])
    ]
    read = (found.test.x[:] * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    assert torch.equal(read, torch.from_numpy(np.stack(expected)))
    assert found.test.y.tolist() == labels[:9]


def test_one_file_of_parquet_is_split(tmp_path: Path) -> None:
    people.write_table(tmp_path / "all.parquet", [k % 4 for k in range(24)], named=False)
    found = data.load(tmp_path / "all.parquet")
    assert (len(found.train), len(found.validation), len(found.test)) == (17, 3, 4)
    assert found.classes == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("train", "unsupervised"), "got one without any of these names, train"),
        (("validation", "test"), "got test, validation"),
        (("train", "latest"), "got one without any of these names, train"),
    ],
)
def test_parts_of_parquet_that_are_not_known(tmp_path: Path, parts: tuple[str, ...], message: str) -> None:
    for part in parts:
        people.write_table(tmp_path / "hub" / f"{part}-00000-of-00001.parquet", [k % 4 for k in range(12)])
    with pytest.raises(ValueError, match=message):
        data.load(tmp_path / "hub")


@pytest.mark.parametrize("names", [("training", "testing"), ("train", "dev")])
def test_other_names_of_the_parts_of_parquet(tmp_path: Path, names: tuple[str, str]) -> None:
    for count, part in zip((24, 8), names, strict=True):
        people.write_table(tmp_path / "hub" / f"{part}.parquet", [k % 4 for k in range(count)], seed=count)
    found = data.load(tmp_path / "hub")
    assert (len(found.train), len(found.validation), len(found.test)) == (20, 4, 8)


def test_a_table_of_several_sizes_or_colours(tmp_path: Path) -> None:
    """Also beyond the images that are looked at beforehand."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    def write(images: list[Image.Image]) -> None:
        column = [people.as_bytes(image) for image in images]
        made = pa.table({"image": column, "label": pa.array([k % 2 for k in range(len(images))], pa.int64())})
        parquet.write_table(made, tmp_path / "t.parquet", row_group_size=5)

    small = [photographs.crop("sky", k, 24) for k in range(12)]
    write([*small, photographs.crop("sky", 50, 48)])
    with pytest.raises(ValueError, match=r"is 48×48 pixels, where others are 24×24: say to which size"):
        data.load(tmp_path / "t.parquet")
    assert data.load(tmp_path / "t.parquet", size=16).shape == (3, 16, 16)
    write([*(image.convert("L") for image in small), small[0]])
    with pytest.raises(ValueError, match=r"has colours \(mode RGB\), where others are grey"):
        data.load(tmp_path / "t.parquet")


def test_labels_of_a_table(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    people.write_table(tmp_path / "one.parquet", [1 + k % 3 for k in range(24)], named=False)
    with pytest.raises(
        ValueError,
        match=r"column label of the training examples must hold every label .* but label 0 has no example",
    ):
        data.load(tmp_path / "one.parquet")
    assert data.load(tmp_path / "one.parquet", some_classes=True).num_classes == 4
    rows = parquet.read_table(tmp_path / "one.parquet").to_pylist()
    named = [{"image": row["image"], "label": "sky", "image_id": k} for k, row in enumerate(rows)]
    parquet.write_table(pa.Table.from_pylist(named), tmp_path / "one.parquet")
    with pytest.raises(ValueError, match=r"one column must hold labels, as integers, got 0 such"):
        data.load(tmp_path / "one.parquet")


def test_a_table_that_is_no_data_set(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    parquet.write_table(pa.table({"a": [1, 2], "b": [3, 4]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"one column must hold images, as bytes .* got 0 such of a: int64"):
        data.load(tmp_path / "t.parquet")
    people.write_table(tmp_path / "bad.parquet", [0, 1, 2, 3] * 3)
    broken = parquet.read_table(tmp_path / "bad.parquet").to_pylist()
    broken[7]["image"]["bytes"] = b"no image"
    parquet.write_table(pa.Table.from_pylist(broken), tmp_path / "bad.parquet")
    with pytest.raises(ValueError, match=r"bad.parquet, row 7: cannot be decoded"):
        data.load(tmp_path / "bad.parquet")


# ---- never the whole set in memory


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each reading took."""
    rows: list[int] = []
    whole = data.Images.__getitem__

    def counted(self: data.Images, index: Any) -> torch.Tensor:
        found = whole(self, index)
        rows.append(1 if isinstance(index, int) else len(found))
        return found

    monkeypatch.setattr(data.Images, "__getitem__", counted)
    return rows


def test_the_search_for_r_reads_images_as_it_votes_on_them(
    photos: Path, monkeypatch: pytest.MonkeyPatch, read: list[int]
) -> None:
    torch.manual_seed(0)
    split = data.load(photos).train
    model = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten(), torch.nn.Linear(108, 4)).eval()
    y = model(split.x[:]).argmax(1)
    options: dict[str, Any] = {"m": 20, "step": 0.1, "r_max": 0.4, "curve": True}
    expected = learn_length(model, split.x[:], y, **options)
    monkeypatch.setattr(images, "READ", 6 * 4 * 3 * 48 * 48)  # six images
    read.clear()
    assert learn_length(model, split.x, y, **options) == expected
    assert sum(read) >= len(split)
    assert max(read) <= 6
    assert min(expected.accuracy) < 1  # lengths at which accuracy is lost were among them


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="asks Linux what is resident")
def test_what_was_read_of_a_mapped_file_is_let_go(tmp_path: Path) -> None:
    np.save(tmp_path / "part.npy", np.random.default_rng(0).integers(0, 256, (200, 3, 64, 64), np.uint8))
    mapped = np.load(tmp_path / "part.npy", mmap_mode="r")
    x = data.Images([mapped], np.zeros((200, 32), np.uint8), np.arange(200))
    assert torch.equal(x[:].mul(255).round().byte(), torch.from_numpy(np.array(mapped)))
    assert x[torch.tensor([5, 190, 5])].shape == (3, 3, 64, 64)
    told = Path("/proc/self/smaps").read_text().split(str(tmp_path / "part.npy"))[1]
    assert int(told.split("Rss:")[1].split()[0]) < 200  # KB, of 2,400


def test_a_split_on_a_device_is_read_to_it(photos: Path) -> None:
    split = data.load(photos).test.to("meta")
    assert isinstance(split.x, data.Images)
    assert (split.x.device.type, split.x[:2].device.type, split.y.device.type) == ("meta", "meta", "meta")
    assert split.x.take(np.array([1])).device.type == "meta"
