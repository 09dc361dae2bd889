"""How fast RegionCW is: all rows at once, and a step beside plain passes of as many points; `attacks.py --vote`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import torch
from common import commit
from torch import Tensor, nn

from rcfast import RegionClassifier
from rcfast.attacks import RegionCW

SHORT, LONG, TRIES = 20, 120, 3  # steps of two searches whose difference is steps alone
FEW = 30  # votes by which these end, so that how they end takes little of the time


def speed(model: nn.Module, x: Tensor, targets: Tensor, r: float) -> dict[str, Any]:
    """Seconds of RegionCW on rows x [n,...], of one of its steps, and of plain passes of the points of a step."""
    vote, attack = RegionClassifier(model, r), RegionCW()

    def search(steps: int) -> float:
        short = attack.replace(steps=steps, restarts=1, votes=FEW)
        return _seconds(lambda: short(vote, x, targets))

    points = x.repeat_interleave(attack.points, 0)
    labels = targets.repeat_interleave(attack.points)

    def plain() -> None:
        leaf = points.clone().requires_grad_(True)
        torch.autograd.grad(nn.functional.cross_entropy(model(leaf), labels), leaf)

    plain()
    turns = [(search(LONG), search(SHORT), _seconds(plain)) for _ in range(TRIES)]
    long, short, passes = (min(column) for column in zip(*turns, strict=True))
    return {
        "rows": len(x),
        "threads": torch.get_num_threads(),
        "seconds": _seconds(lambda: attack(vote, x, targets)),
        "step_seconds": (long - short) / (LONG - SHORT),
        "plain_seconds": passes,
        "points": len(points),
        "load": os.getloadavg()[0],
        "commit": commit(),
    }


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def speed_bars(piece: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """What was asked for: 90 rows in three minutes on two cores, a step in at most 1.25 times its plain passes."""
    rows, threads, seconds = piece["rows"], piece["threads"], piece["seconds"]
    ratio = piece["plain_seconds"] / piece["step_seconds"]
    asked = rows >= 90 and threads == 2
    bar = "at most 180 s" if asked else ""
    return [
        (
            f"RegionCW, {rows} rows at once, {threads} threads",
            f"{seconds:.0f} s",
            bar,
            not asked or seconds <= 180,
        ),
        (
            f"points a second beside plain passes, {threads} threads",
            f"{ratio:.2f} times",
            "at least 0.8",
            ratio >= 0.8,
        ),
    ]
