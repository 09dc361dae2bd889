"""Security curves and worst case of a finished run, computed anew from its outcomes.csv by plain loops."""

import csv
import io
import math

import pytest
from kept_run import unpack

Line = dict[str, str]
NORMS = ("L0", "L2", "Linf")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Line]]:
    kept = unpack(tmp_path_factory.mktemp("kept"))
    names = {"outcomes": "outcomes.csv", "curves": "figures/curves.csv", "worst": "tables/worst.csv"}
    return {name: list(csv.DictReader(io.StringIO(kept[path]))) for name, path in names.items()}


def named(line: Line) -> str:
    """As the curves call an attack: any wrong label counts."""
    name = "U" + line["attack"][1:] if line["attack"].startswith("T-") else line["attack"]
    k, alpha = float(line["confidence"]), float(line["alpha"])
    return name + (f" k={k:g}" if k else "") + (f" alpha={alpha:g}" if alpha else "")


def least(lines: list[Line], norm: str, seed: int = 0) -> list[float]:
    """Each example's least noise that a seed calls wrong; 0 where it is wrong without an attack, inf for failures."""
    found: dict[str, float] = {}
    for line in lines:
        wrong = line["success_on_network"] == "1" and line[f"label_{seed}"] != line["true_label"]
        noise = float(line[norm.lower()]) if wrong else math.inf
        if line[f"clean_{seed}"] != line["true_label"]:
            noise = 0.0
        found[line["example"]] = min(noise, found.get(line["example"], math.inf))
    return list(found.values())


def share(noises: list[float], allowed: float) -> float:
    return sum(noise <= allowed * (1 + 1e-5) for noise in noises) / len(noises)


@pytest.mark.parametrize("defence", ["point", "adversarial", "distillation"])
def test_curves_are_shares_of_broken_examples(given: dict[str, list[Line]], defence: str) -> None:
    own = [line for line in given["outcomes"] if line["defence"] == defence]
    curves = [point for point in given["curves"] if point["defence"] == defence]
    assert {point["attack"] for point in curves} == {"all attacks", *map(named, own)}, (
        "a curve for each attack"
    )
    for point in curves:
        lines = own if point["attack"] == "all attacks" else [x for x in own if named(x) == point["attack"]]
        expected = share(least(lines, point["norm"]), float(point["noise"]))
        assert float(point["success"]) == pytest.approx(expected), point


def test_a_choice_by_the_first_seed_is_judged_by_the_second(given: dict[str, list[Line]]) -> None:
    """On the vote seed 1 judges the least noisy candidate that seed 0 accepts, or of all where it accepts none."""
    own = [line for line in given["outcomes"] if line["defence"] == "region"]
    points = [p for p in given["curves"] if p["defence"] == "region" and p["attack"] != "all attacks"]
    assert len({point["attack"] for point in points}) > 10
    for point in points:
        handed: dict[str, list[Line]] = {}
        for line in own:
            if named(line) == point["attack"]:
                handed.setdefault(line["example"], []).append(line)
        broken = 0
        for lines in handed.values():
            there = [x for x in lines if x["success_on_network"] == "1"]
            seen = [x for x in there if x["label_0"] != x["true_label"]]
            best = min(seen or there, key=lambda x: float(x[point["norm"].lower()]), default=None)
            if lines[0]["clean_1"] != lines[0]["true_label"]:
                broken += 1
            elif best is not None and best["label_1"] != best["true_label"]:
                broken += float(best[point["norm"].lower()]) <= float(point["noise"]) * (1 + 1e-5)
        assert float(point["success"]) == pytest.approx(broken / len(handed)), point


def test_the_worst_case_is_at_least_as_bad_as_each_attack(given: dict[str, list[Line]]) -> None:
    for row in given["worst"]:
        own = [p for p in given["curves"] if p["defence"] == row["defence"] and p["attack"] != "all attacks"]
        if row["defence"] == "region":  # what is handed in there has the largest lead, not the least noise
            continue
        for norm in NORMS:
            best = max((float(p["success"]) for p in own if p["norm"] == norm), default=0.0)
            every = [p for p in given["curves"] if (p["defence"], p["norm"]) == (row["defence"], norm)]
            assert max(float(p["success"]) for p in every if p["attack"] == "all attacks") >= best
