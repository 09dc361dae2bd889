"""The image grids of Figures 1, 5 and 9: one example for each label, one column for each target."""

import io

import numpy as np
import torch

from rcfast.eval.defences import Judge
from rcfast.eval.plan import Unit
from rcfast.eval.results import Grid, Results
from rcfast.eval.stages import attack, vote
from rcfast.eval.stages.context import Context
from rcfast.eval.store import write_atomic


def write(ctx: Context, results: Results) -> None:
    """Write grid-<figure>.npz for the wanted figures and describe each in the results."""
    settings = ctx.config.attacks
    wanted = {
        "figure1": (Unit("point", "T-CW-L2"), 0.0, None, "point"),
        "figure5": (
            Unit("point", "T-CW-L2", settings.grid_confidence),
            0.0,
            settings.grid_confidence,
            "region",
        ),
        "figure9": (Unit("point", "T-CW-L2"), settings.grid_alpha, settings.grid_alpha, "region"),
    }
    for figure, (unit, alpha, parameter, name) in wanted.items():
        judge = next((j for j in ctx.judges if j.name == name), None)
        if figure not in ctx.plan.outputs or unit not in ctx.plan.units or judge is None:
            continue
        file = f"grid-{figure}.npz"
        buffer = io.BytesIO()
        images, shown = grid(ctx, unit, alpha, judge)
        np.savez_compressed(buffer, images=images, shown=shown)
        write_atomic(ctx.out / file, buffer.getvalue())
        described: Grid = {
            "file": file,
            "attack": f"{unit.attack}-A" if alpha else unit.attack,
            "parameter": parameter,
            "labels": list(range(len(ctx.examples.grid))),
            "judge": judge.name,
        }
        results["grids"][figure] = described


def grid(ctx: Context, unit: Unit, alpha: float, judge: Judge) -> tuple[np.ndarray, np.ndarray]:
    """Return images [K,K,C,H,W] and shown [K,K]: benign on the diagonal, else what fools the judge."""
    labels = len(ctx.examples.grid)
    images = np.zeros((labels, labels, *ctx.dataset.shape), np.float32)
    shown = np.zeros((labels, labels), bool)
    for label, row in enumerate(ctx.examples.grid):
        if row >= 0:
            images[label, label] = ctx.examples.x[row].cpu().numpy()
            shown[label, label] = True
    for job in vote.adversarial_jobs(ctx):
        if (job.unit, job.alpha, job.judge.name) != (unit, alpha, judge.name) or job.seed != judge.seeds[0]:
            continue
        assert job.part is not None
        arrays = ctx.arrays(job.part)
        part = ctx.ready("vote", job.inputs)
        assert part is not None, "the vote stage ran before"
        said = ctx.arrays(part)["said"].reshape(arrays["success"].shape)
        for label, row in enumerate(ctx.examples.grid):
            if not job.rows.start <= row < job.rows.stop:
                continue
            at, clean = row - job.rows.start, ctx.examples.x[row].cpu()
            for column, target in enumerate(ctx.examples.targets[row]):
                if target < labels:
                    made = torch.from_numpy(arrays["adversarial"][at, column])
                    images[label, target] = attack.adapted(clean, made, alpha).numpy()
                    shown[label, target] = arrays["success"][at, column] and said[at, column] == target
    return images, shown
