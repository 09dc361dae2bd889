"""The bars of the bench of attacks on votes, on pieces made by hand: each can be met, and missed."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))

from vote_bars import bars
from vote_speed import speed_bars


def piece(*l2: float, holds: bool = True) -> dict[str, Any]:
    fresh = [[int(holds)] * len(l2)] * 3
    return {"l2": list(l2), "fresh": fresh, "own": fresh[0], "rounded": fresh, "seconds": 20.0}


def verdict(pieces: dict[str, Any], what: str) -> str:
    (found,) = (row for row in bars(pieces, 0.3) if row[0].startswith(what))
    return found[3]


@pytest.mark.parametrize(
    ("ours", "started", "expected"),
    [
        ((1.4, 1.5), (1.9, 1.9), ("met", "met")),
        ((1.4, 1.7), (1.9, 2.1), ("MISSED", "MISSED")),  # better in the mean, worse on one example
        ((1.4, 1.5), (1.0, 2.01), ("met", "MISSED")),
    ],
)
def test_noise_beside_transferred_examples(ours: Any, started: Any, expected: tuple[str, str]) -> None:
    pieces = {
        "region_cw 0": piece(*ours),
        "combined 0": {"plain": piece(2.0, 2.0), "lengthened": piece(2.0, 2.0), "started": piece(*started)},
    }
    assert verdict(pieces, "RegionCW over CA-L2: ") == expected[0]
    assert verdict(pieces, "RegionCW started at CA-L2 over it") == expected[1]
    assert verdict(pieces, "RegionCW over CA-L2 with Adapted") == "met"


def test_successes_on_fresh_seeds() -> None:
    what = "RegionCW, 2 rows: success"
    assert verdict({"region_cw 0": piece(1.0, 1.0)}, what) == "met"
    assert verdict({"region_cw 0": piece(1.0, 1.0, holds=False)}, what) == "MISSED"


@pytest.mark.parametrize(
    ("rows", "threads", "seconds", "plain", "expected"),
    [
        (90, 2, 170.0, 0.1, [("at most 180 s", True), ("at least 0.8", True)]),
        (90, 2, 190.0, 0.07, [("at most 180 s", False), ("at least 0.8", False)]),
        (90, 1, 300.0, 0.1, [("", True), ("at least 0.8", True)]),  # asked of two threads alone
    ],
)
def test_speed(
    rows: int, threads: int, seconds: float, plain: float, expected: list[tuple[str, bool]]
) -> None:
    found = speed_bars(
        {"rows": rows, "threads": threads, "seconds": seconds, "step_seconds": 0.1, "plain_seconds": plain}
    )
    assert [row[2:] for row in found] == expected
