"""outcomes.csv: rates and noise computed anew from it are those of the results."""

import csv
import json
from collections.abc import Callable
from typing import Any

import pytest

from rcfast.eval import cli

SETTINGS = [
    'defences=["point","distillation","region"]',
    'attacks.names=["T-FGSM","T-JSMA","DeepFool"]',
    "attacks.settings.T-FGSM={steps=8, refine=1}",
    "protocol.examples=4",
    "protocol.block=3",
    "train.point.epochs=3",
    "train.distillation.epochs=1",
    "vote.m=10",
    "vote.stop=none",
    "vote.seeds=[5,6,7]",
    "length.r=0.2",
    "length.r_max=0",
    "length.m=20",
    "attacks.adapted=[]",
]
Line = dict[str, str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Line], dict[str, Any]]:
    out = tmp_path_factory.mktemp("outcomes") / "out"
    settings = [item for text in SETTINGS for item in ("--set", text)]
    assert cli.main(["--out", str(out), "--quiet", "--only", "table4,table5", *settings]) == cli.DONE
    with open(out / "outcomes.csv") as stream:
        return list(csv.DictReader(stream)), json.loads((out / "results.json").read_text())


def test_a_line_for_each_example_target_attack_and_defence(run: tuple[list[Line], dict[str, Any]]) -> None:
    lines, _ = run
    keys = [(r["attack"], r["defence"], r["example"], r["target"]) for r in lines]
    assert len(set(keys)) == len(keys) == 3 * (2 * 4 * 9 + 4)
    for line in lines:
        assert line["true_label"] != line["target"]
        if line["defence"] == "region":
            assert "" not in (line["label_5"], line["label_6"], line["label_7"], line["clean_7"])
        else:
            assert (line["label_6"], line["clean_6"]) == ("", "")
            assert line["network"] == line["defence"]
        if line["success_on_network"] == "0":
            assert (line["l0"], float(line["l2"]), float(line["linf"])) == ("0", 0.0, 0.0)
        if (
            line["network"] == line["defence"] != "region"
            and line["success_on_network"] == "1"
            and line["target"]
        ):
            assert line["label_0"] == line["target"]


def fooled(line: Line, seed: int) -> bool:
    """Whether a targeted example is a success for one vote seed."""
    return line["success_on_network"] == "1" and line[f"label_{seed}"] == line["target"]


@pytest.mark.parametrize("defence", ["point", "distillation", "region"])
@pytest.mark.parametrize("attack", ["T-FGSM", "T-JSMA"])
def test_targeted_rows_are_counts_of_lines(
    run: tuple[list[Line], dict[str, Any]], attack: str, defence: str
) -> None:
    lines, results = run
    own = [r for r in lines if (r["attack"], r["defence"]) == (attack, defence)]
    rows = {r["reading"]: r for r in results["attacks"] if (r["attack"], r["defence"]) == (attack, defence)}
    random = defence == "region"
    first, judging = (5, [6, 7]) if random else (0, [0])
    unseen = [(r, seed) for r in own for seed in judging if fooled(r, seed)]
    assert rows["unseen"]["success"] == len(unseen) / len(judging)
    assert rows["defence"]["success"] == rows["model"]["success"] == sum(fooled(r, first) for r in own)
    assert rows["unseen"]["per_seed"] == [sum(fooled(r, s) for r in own) for s in judging] * random
    already = [(r, seed) for r, seed in unseen if r[f"clean_{seed}"] == r["target"]]
    assert rows["unseen"]["already"] == len(already) / len(judging)
    norm = "l0" if attack == "T-JSMA" else "linf"
    noise = [float(r[norm]) for r, seed in unseen if (r, seed) not in already]
    mean = sum(noise) / len(noise) if noise else None
    assert rows["unseen"]["noise_mean"] == (None if mean is None else pytest.approx(mean, rel=1e-6))


def least(lines: list[Line], norm: str, wins: Callable[[Line], bool]) -> Line | None:
    there = [r for r in lines if r["success_on_network"] == "1" and wins(r)]
    return min(there, key=lambda r: float(r[norm]), default=None)


def test_untargeted_rows_choose_by_the_first_seed_and_judge_by_the_others(
    run: tuple[list[Line], dict[str, Any]],
) -> None:
    lines, results = run
    own = [r for r in lines if (r["attack"], r["defence"]) == ("T-FGSM", "region")]
    count = [0, 0]
    for example in dict.fromkeys(r["example"] for r in own):
        of = [r for r in own if r["example"] == example]
        chosen = least(of, "linf", lambda r: r["label_5"] != r["true_label"]) or least(
            of, "linf", lambda r: True
        )
        for index, seed in enumerate((6, 7)):
            count[index] += chosen is not None and chosen[f"label_{seed}"] != chosen["true_label"]
    (row,) = (
        r
        for r in results["attacks"]
        if (r["attack"], r["defence"], r["reading"]) == ("U-FGSM", "region", "unseen")
    )
    assert row["per_seed"] == count
    assert row["success"] == sum(count) / 2
    assert row["examples"] == row["n"] == 4
