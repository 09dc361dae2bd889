"""What Figures 1, 5 and 9 share: images, one example for each label, one column for each target."""

import io
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from rcfast.eval.outputs import mosaics
from rcfast.eval.outputs.output import Output
from rcfast.eval.outputs.plot import Panel, Plot, on_axes
from rcfast.eval.outputs.records import attack_label, number, rounded
from rcfast.eval.outputs.table import Record
from rcfast.eval.results import Grid, Results
from rcfast.eval.run import attack
from rcfast.eval.run.attack import Adversarial, Case
from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import Measured
from rcfast.eval.run.examples import DrawnExamples, examples
from rcfast.eval.run.judges import judges
from rcfast.eval.run.labels import AdversarialLabels
from rcfast.eval.run.store import write_atomic
from rcfast.eval.run.unit import Unit
from rcfast.eval.run.vote_attack import JudgedExamples


class ImageGrid(Output):
    """Rows are true labels, columns targets, the diagonal the benign images."""

    judge: ClassVar[str] = "region"  # the defence whose label decides what is shown
    sign: ClassVar[str] = "k"  # what its parameter is called

    @abstractmethod
    def case(self, ctx: Context) -> tuple[Case, float, float | None]:
        """The attack, alpha, and the parameter that is shown."""

    def needs(self, ctx: Context) -> Iterable[Unit]:
        for own in self._judges(ctx):
            yield DrawnExamples()
            yield from self.verdicts(ctx, own)

    def measure(self, ctx: Context) -> Mapping[str, Any]:
        for own in self._judges(ctx):
            case, alpha, parameter = self.case(ctx)
            images, shown, tried = self._images(ctx, own)
            buffer, file = io.BytesIO(), f"grid-{self.name}.npz"
            np.savez_compressed(buffer, images=images, shown=shown, tried=tried)
            write_atomic(ctx.out / file, buffer.getvalue())
            described: Grid = {
                "file": file,
                "attack": f"{case.attack}-A" if alpha else case.attack,
                "parameter": parameter,
                "labels": list(range(len(examples(ctx).grid))),
                "judge": own.name,
                "all_tried": bool(tried.all()),
            }
            return {"grids": {self.name: described}}
        return {}

    def files(self, results: Results) -> Iterable[str]:
        grid = results["grids"].get(self.name)
        return [grid["file"]] if grid else []

    def build(self, results: Results, folder: Path) -> Plot | None:
        grid = results.get("grids", {}).get(self.name)
        if grid is None or not (folder / grid["file"]).is_file():
            return None
        with np.load(folder / grid["file"], allow_pickle=False) as arrays:
            images = arrays["images"]
            shown, tried = (arrays[name].astype(bool) for name in ("shown", "tried"))
        labels = list(grid["labels"])
        draw = on_axes(mosaics.image_grid, images, shown, labels, tried & ~shown)
        head = {
            "images": grid["file"],
            "attack": grid["attack"],
            "parameter": grid["parameter"],
            "judge": grid["judge"],
        }
        records = _records(images, shown, tried, labels)
        return Plot(self.name, self.title, records, [Panel(draw, (5.4, 5.4))], head, square=True)

    def read(self, results: Results) -> str:
        grid = results["grids"][self.name]
        said = attack_label(grid["attack"])
        if grid["parameter"] is not None:
            said += f" at {self.sign} = {number(grid['parameter'])}"
        said = f"{said}. {self.reading}"
        if not grid["all_tried"]:
            said += " What is blank was not tried, or no example of that label was there."
        return said

    def _judges(self, ctx: Context) -> list[Measured]:
        """The one defence that decides, where the run has it and the attack."""
        case, _, _ = self.case(ctx)
        return [own for own in judges(ctx) if own.name == self.judge and self.there(ctx, case)]

    def there(self, ctx: Context, case: Case) -> bool:
        """Whether the run has the attack."""
        return case.attack in ctx.config.attacks.names

    def made(self, ctx: Context, case: Case) -> Iterable[Adversarial]:
        """The units that attack the examples of the grid."""
        return attack.parts(ctx, case, "grid")

    def verdicts(self, ctx: Context, own: Measured) -> Iterable[AdversarialLabels | JudgedExamples]:
        """The units that say what the judge makes of the examples."""
        case, alpha, _ = self.case(ctx)
        for part in self.made(ctx, case):
            yield AdversarialLabels(own.name, own.seeds[0], part, alpha)

    def holds(self, ctx: Context, verdict: Any) -> np.ndarray:
        """Whether the judge says the target [n,T] bool."""
        said = ctx.arrays(verdict)["said"].reshape(verdict.made.stop - verdict.made.start, -1)
        return np.asarray(said == examples(ctx).targets[verdict.made.rows])

    def _images(self, ctx: Context, own: Measured) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return images [K,K,C,H,W], shown and tried [K,K]: benign on the diagonal, else what fools the judge."""
        found = examples(ctx)
        count = len(found.grid)
        images = np.zeros((count, count, *ctx.dataset.shape), np.float32)
        shown, tried = np.zeros((2, count, count), bool)
        for label, row in enumerate(found.grid):
            if row >= 0:
                images[label, label] = found.x[row].cpu().numpy()
                shown[label, label] = tried[label, label] = True
        _, alpha, _ = self.case(ctx)
        for unit in self.verdicts(ctx, own):
            arrays, holds = ctx.arrays(unit.made), self.holds(ctx, unit)
            for label, row in enumerate(found.grid):
                if not unit.made.start <= row < unit.made.stop:
                    continue
                at, clean = row - unit.made.start, found.x[row].cpu()
                for column, target in enumerate(found.targets[row]):
                    if target < count:
                        made = torch.from_numpy(arrays["adversarial"][at, column])
                        tried[label, target] = True
                        images[label, target] = attack.adapted(clean, made, alpha).numpy()
                        shown[label, target] = arrays["success"][at, column] and holds[at, column]
        return images, shown, tried


def _records(images: np.ndarray, shown: np.ndarray, tried: np.ndarray, labels: list[int]) -> list[Record]:
    """The noise of every image in three norms."""
    records: list[Record] = []
    for i, true in enumerate(labels):
        for j, target in enumerate(labels):
            delta = (images[i, j].astype(np.float64) - images[i, i]).ravel()
            seen = bool(shown[i, j] and shown[i, i])
            norms = {
                "l0": np.count_nonzero(delta),
                "l2": np.sqrt((delta**2).sum()),
                "linf": np.abs(delta).max(),
            }
            noise = {f"noise_{k}": rounded(float(v)) if seen else None for k, v in norms.items()}
            said = {"shown": bool(shown[i, j]), "tried": bool(tried[i, j])}
            records.append({"true_label": true, "target": target, **said, **noise})
    return records
