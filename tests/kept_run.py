"""A finished run that is kept: its store, and what a reader was given. A move of the house has to give the same again.

`python tests/kept_run.py` renews it where keys or outputs change on purpose: the results of units that are there
stay, under their new keys, new units are computed, and it says which files a reader is given otherwise than before.

What is tabulated from finished parts is the same on every machine; training and attacks are not, so that their results
are kept. They come from the quick preset with few examples and iterations, on a network without convolutions (how those
are computed, and with it the keys, depends on the processor). What attacks and votes gave is rounded to sixty-fourths:
norms are exact in any order of summation.
"""

import hashlib
import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from torch import nn

from rcfast.eval import evaluation
from rcfast.eval.outputs import drawing
from rcfast.eval.outputs.plot import Panel
from rcfast.eval.run import loop
from rcfast.eval.run.config import Config
from rcfast.eval.run.context import Context, Missing
from rcfast.eval.run.settings import build
from rcfast.eval.run.store import Part, digest_arrays
from rcfast.eval.run.unit import Made, Unit
from rcfast.models.network import ARCHITECTURES, register

ARCHIVE = Path(__file__).with_suffix(".tar.xz")
FLOAT32 = 'precision="float32"'  # whatever `auto` means on a machine
SETTINGS = [
    'device="cpu"',
    "threads=1",
    'model.source="kept_network"',
    "data.test=60",
    "protocol.examples=4",
    "protocol.targets=3",
    "vote.m=100",
    "vote.histogram_m=200",
    "vote.seeds=[0, 1]",
    'vote.dtype="float32"',
    "length.step=0.1",
    "length.m=50",
    "length.curve_max=0.4",
    "length.curve_step=0.1",
    f"train.point={{epochs=8, {FLOAT32}}}",
    f"train.adversarial={{epochs=2, {FLOAT32}, attack='DeepFool', attack_settings={{iterations=2}}}}",
    f"train.distillation={{epochs=4, {FLOAT32}, temperature=100.0}}",
    "attacks.confidences=[0, 5, 20]",
    "attacks.alphas=[0, 1]",
    "attacks.settings.T-FGSM={steps=16, refine=2}",
    "attacks.settings.T-IGSM={refine=2, iterations=5}",
    f"attacks.settings.T-CW-L2={{searches=3, iterations=20, c0=1.0, rate=0.1, {FLOAT32}}}",
    f"attacks.settings.T-CW-L0={{iterations=15, c0=0.1, c_max=3.0, rate=0.05, {FLOAT32}}}",
    f"attacks.settings.T-CW-Linf={{iterations=15, c0=0.1, c_max=3.0, rate=0.05, {FLOAT32}}}",
    "attacks.settings.T-RegionCW={steps=25, points=3, votes=50}",
    "checks.examples=2",
]


def kept_network(*, shape: tuple[int, ...], num_classes: int, seed: int = 0) -> nn.Sequential:
    """A small network whose arithmetic has one form on every machine."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, num_classes))


@contextmanager
def configured() -> Iterator[Config]:
    """The configuration of the kept run, while its network is known."""
    with mock.patch.dict(ARCHITECTURES):
        register(kept_network)
        yield build("quick", settings=SETTINGS)


# ---- what a reader is given, without what fonts, matplotlib and machines decide


@contextmanager
def without_pictures() -> Iterator[None]:
    """Tables and the data of figures are written, pictures and report are not."""
    with (
        mock.patch.object(drawing, "render_all", lambda jobs: [{} for _ in jobs]),
        mock.patch.object(evaluation.report, "write"),
    ):
        yield


def given(out: Path) -> dict[str, str]:
    """Return every file of a run as text, but those that a machine decides; of pictures what is drawn."""
    paths = [path for folder in ("tables", "figures") for path in sorted((out / folder).iterdir())]
    paths += [out / "outcomes.csv", out / "vote-outcomes.csv"]
    texts = {str(path.relative_to(out)): path.read_text() for path in paths}
    results = json.loads((out / "results.json").read_text())
    for path in sorted(out.glob("grid-*.npz")):
        with np.load(path) as arrays:
            texts[path.name] = digest_arrays({name: arrays[name] for name in arrays.files})
    plots = drawing.build(results, out)
    drawn = {name: [drawn_by(panel) for panel in plot.panels] for name, plot in plots.items()}
    texts["drawn.json"] = json.dumps(drawn, indent=1, default=float)
    del results["environment"]
    texts["results.json"] = json.dumps(results, indent=1)
    return texts


def drawn_by(panel: Panel) -> list[dict[str, Any]]:
    """Return what a panel draws into its axes: lines, bars, points, images, and their names."""
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=panel.size)
    panel.draw(figure)
    return [
        {
            "names": [axes.get_title(), axes.get_xlabel(), axes.get_ylabel()],
            "legend": [text.get_text() for text in legend.get_texts()]
            if (legend := axes.get_legend())
            else [],
            "lines": [np.asarray(line.get_xydata()).tolist() for line in axes.get_lines()],
            "bars": [
                [*patch.get_xy(), patch.get_width(), patch.get_height()]
                for patch in axes.patches
                if isinstance(patch, Rectangle)
            ],
            "points": [
                np.asarray(marks.get_offsets()).tolist()
                for marks in axes.collections
                if isinstance(marks, PathCollection)
            ],
            "images": [digest_arrays({"": np.asarray(image.get_array())}) for image in axes.get_images()],
        }
        for axes in figure.axes
    ]


# ---- to keep one


class Renewed:
    """Finishes a unit for the loop: with the kept result, where `units` names its part, or a rounded new one."""

    def __init__(self, kept: Path, units: dict[str, str]) -> None:
        self.kept, self.units = kept, units
        self.finished: dict[str, str] = {}  # unit: its part

    def __call__(self, ctx: Context, unit: Unit) -> Part:
        name = repr(unit)
        made = (
            self._kept(ctx, unit, self.units[name])
            if name in self.units
            else _rounded(unit.compute(ctx), unit)
        )
        part = ctx.keep(unit, made, 0.0)
        self.finished[name] = f"{unit.kind}/{part.key}"
        return part

    def _kept(self, ctx: Context, unit: Unit, part: str) -> Made:
        said = json.loads((self.kept / "store" / f"{part}.json").read_text())
        data = self.kept / "store" / f"{part}{unit.suffix}"
        if unit.suffix == ".npz":
            with np.load(data) as arrays:
                return Made(dict(arrays), said["info"], said["digest"])
        path = ctx.store.path(unit.kind, unit.inputs(ctx), unit.suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data, path)
        return Made(info=said["info"], digest=said["digest"])


def _rounded(made: Made, unit: Unit) -> Made:
    if unit.stage == "train":
        return made
    arrays = {
        name: np.round(values * 64) / 64 if values.dtype.kind == "f" else values
        for name, values in made.arrays.items()
    }
    own = {name: arrays[name] for name in ("success", "adversarial") if made.digest}
    return Made(arrays, made.info, digest_arrays(own) if own else None)


def make(out: Path, finish: Renewed) -> None:
    """Run it."""
    with configured() as config, mock.patch.object(loop, "finish", finish), without_pictures():
        evaluation.evaluate(config, out)


def pack(out: Path, units: dict[str, str]) -> bytes:
    """Return the store and what a reader is given as an archive whose bytes depend on their content alone."""
    store = out / "store"
    contents = {f"given/{name}": text.encode() for name, text in given(out).items()}
    contents["units.json"] = json.dumps(units, indent=1).encode()
    for path in sorted(store.glob("*/*.json")):
        if path.parent.name == "draw":  # depends on the machine, and is nothing but pictures
            continue
        said = json.loads(path.read_text())
        (data,) = (other for other in path.parent.glob(f"{path.stem}.*") if other != path)
        content = data.read_bytes()
        if data.suffix == ".npz":  # what is compressed twice is larger
            buffer = io.BytesIO()
            with np.load(data) as arrays:
                np.savez(buffer, **arrays)
            content = buffer.getvalue()
            said["sha256"] = hashlib.sha256(content).hexdigest()
        contents[f"store/{data.relative_to(store)}"] = content
        contents[f"store/{path.relative_to(store)}"] = json.dumps(said, sort_keys=True).encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz", preset=9) as archive:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def unpack(out: Path) -> dict[str, str]:
    """Put the kept store into a folder and return what its reader was given."""
    with tarfile.open(ARCHIVE) as archive:
        # Python 3.11.2, that of Debian 12, knows no filter.
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(out, **safely)
    kept = out / "given"
    return {str(p.relative_to(kept)): p.read_text() for p in sorted(kept.rglob("*")) if p.is_file()}


def renew() -> None:
    """Replace the archive, and say which files are not what they were."""
    with tempfile.TemporaryDirectory() as old, tempfile.TemporaryDirectory() as new:
        before = unpack(Path(old)) if ARCHIVE.exists() else {}
        units = json.loads((Path(old) / "units.json").read_text()) if before else {}
        finish = Renewed(Path(old), units)
        try:
            make(Path(new), finish)
        except (
            Missing
        ):  # attacks kept from before they were observed on the way: the plan sees that once they are there
            make(Path(new), finish)
        now = given(Path(new))
        ARCHIVE.write_bytes(pack(Path(new), finish.finished))
    print(f"{len(finish.finished)} units, {len(finish.finished.keys() - units)} of them new")
    print("changed:", *(name for name in sorted(now.keys() | before) if now.get(name) != before.get(name)))


if __name__ == "__main__":
    renew()
