"""The protocol as arithmetic: which examples, which candidate, what counts."""

import numpy as np
import pytest

from rcfast.eval.results import AttackRow, Reading
from rcfast.eval.run.protocol import (
    READINGS,
    Candidates,
    choose,
    draw_examples,
    draw_targets,
    grid_examples,
    targeted,
    untargeted,
)
from rcfast.eval.run.summary import summarise
from rcfast.eval.statistics import wilson


def test_examples_are_drawn_among_the_correct_by_seed() -> None:
    y = np.arange(100) % 10
    said = np.where(np.arange(100) % 7 == 0, (y + 1) % 10, y)
    drawn = draw_examples(y, said, count=20, seed=1)
    assert len(set(drawn.tolist())) == 20
    assert (said[drawn] == y[drawn]).all()
    assert (drawn == draw_examples(y, said, count=20, seed=1)).all()
    assert (drawn != draw_examples(y, said, count=20, seed=2)).any()
    assert set(draw_examples(y, said, count=1000, seed=1).tolist()) == set(np.flatnonzero(said == y).tolist())
    grid = grid_examples(y, said, drawn=drawn, rows=10, seed=1)
    assert y[grid].tolist() == list(range(10))
    for label in range(10):
        own = [i for i in drawn if y[i] == label]
        assert not own or grid[label] == own[0]
    assert grid_examples(y, np.where(y == 3, 4, y), drawn=drawn[:0], rows=10, seed=1)[3] == -1


def test_targets_are_all_other_labels_or_some() -> None:
    y = np.array([0, 4, 9])
    every = draw_targets(y, num_classes=10, count=0, seed=0)
    assert every.shape == (3, 9)
    assert every[1].tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    some = draw_targets(y, num_classes=10, count=4, seed=0)
    assert some.shape == (3, 4)
    assert all(label not in row for label, row in zip(y, some, strict=True))
    assert all(len(set(row)) == 4 for row in some.tolist())


def candidates(
    noise: list[list[float]],
    success: list[list[bool]],
    said: list[list[list[int]]] | list[list[int]],
    clean: list[list[int]] | None = None,
) -> Candidates:
    """Attacks on examples of label 0 with targets 1, 2, …; said by one vote seed or several."""
    shape = np.shape(noise)
    labels = np.array(said)
    labels = labels[None] if labels.ndim == 2 else labels
    return Candidates(
        success=np.array(success),
        noise=np.array(noise),
        targets=np.tile(np.arange(1, shape[1] + 1), (shape[0], 1)),
        said=labels,
        clean=np.zeros((len(labels), shape[0]), int) if clean is None else np.array(clean),
        lead=np.ones(labels.shape),
        clean_lead=np.ones((len(labels), shape[0])),
    )


def test_the_readings_of_the_protocol_differ_as_they_must() -> None:
    # One example of label 0, three targets; the defence is fooled by the second (as 2) and third (as 1).
    own = candidates([[1.0, 2.0, 3.0]], [[True, True, True]], [[0, 2, 1]])
    truth = np.array([0])
    by_defence, by_model = untargeted([own], truth, "defence"), untargeted([own], truth, "model")
    assert (by_defence.success.tolist(), by_defence.noise.tolist()) == ([[[True]]], [[[2.0]]])
    assert (by_model.success.tolist(), by_model.noise.tolist()) == ([[[False]]], [[[0.0]]])
    # Targeted: only the second answers its own target; all readings agree where there is one candidate.
    for reading in READINGS:
        assert targeted([own], reading).success.tolist() == [[[False, True, False]]]
    # Without random votes what is chosen by the defence is judged by the same labels.
    unseen = untargeted([own], truth, "unseen")
    assert (unseen.success.tolist(), unseen.noise.tolist()) == ([[[True]]], [[[2.0]]])


def test_what_the_first_seed_chose_is_judged_by_the_others() -> None:
    # Seed 0 is fooled by the second candidate; seed 1 by the third alone, seed 2 by both.
    own = candidates([[1.0, 2.0, 3.0]], [[True] * 3], [[[0, 2, 0]], [[0, 0, 1]], [[0, 2, 1]]])
    unseen = untargeted([own], np.array([0]), "unseen")
    assert unseen.success[:, 0, 0].tolist() == [False, True]
    assert unseen.noise[:, 0, 0].tolist() == [0.0, 2.0]
    each = untargeted([own], np.array([0]), "defence")
    assert each.noise[:, 0, 0].tolist() == [2.0, 3.0, 2.0]
    # Seed 0 is fooled by none: the network's choice is handed in, and may fool the others.
    own = candidates([[1.0, 2.0]], [[True, True]], [[[0, 0]], [[1, 0]], [[0, 1]]])
    assert untargeted([own], np.array([0]), "unseen").success[:, 0, 0].tolist() == [True, False]


def test_a_choice_by_chance_does_not_last() -> None:
    """Ten candidates that each fool a vote with probability 0.3: one of them nearly always does, by luck."""
    generator = np.random.default_rng(0)
    noise, said = np.ones((2000, 10)), (generator.random((3, 2000, 10)) < 0.3).astype(int)
    own = candidates(noise.tolist(), np.ones((2000, 10), bool).tolist(), said.tolist())
    truth = np.zeros(2000, int)
    rates = {reading: untargeted([own], truth, reading).success.mean() for reading in READINGS}
    assert rates["defence"] == pytest.approx(1 - 0.7**10, abs=0.02)
    assert rates["unseen"] == pytest.approx(0.3, abs=0.04)
    assert rates["model"] == pytest.approx(0.3, abs=0.04)


def test_a_failed_attack_is_no_candidate() -> None:
    # The clean input comes back for the first target, and the defence happens to err on it.
    own = candidates([[0.0, 2.0]], [[False, True]], [[1, 0]])
    for reading in READINGS:
        assert not untargeted([own], np.array([0]), reading).success.any()
        assert not targeted([own], reading).success.any()


def test_combined_attacks_take_the_least_noise_of_several() -> None:
    weak = candidates([[3.0, 1.0]], [[True, True]], [[1, 0]])
    strong = candidates([[5.0, 4.0]], [[True, True]], [[1, 2]])
    outcome = targeted([weak, strong], "defence")
    assert (outcome.success.tolist(), outcome.noise.tolist()) == ([[[True, True]]], [[[3.0, 4.0]]])
    outcome = targeted([weak, strong], "model")
    assert (outcome.success.tolist(), outcome.noise.tolist()) == ([[[True, False]]], [[[3.0, 0.0]]])
    outcome = untargeted([weak, strong], np.array([0]), "defence")
    assert (outcome.success.tolist(), outcome.noise.tolist()) == ([[[True]]], [[[3.0]]])


def test_choice_agrees_with_a_literal_loop() -> None:
    generator = np.random.default_rng(0)
    noise = generator.integers(1, 6, (50, 7)).astype(float)
    available, wins = generator.random((50, 7)) < 0.6, generator.random((3, 50, 7)) < 0.4

    def least(item: int, offered: list[int]) -> int | None:
        return min(offered, key=lambda k: (noise[item, k], k), default=None)

    for reading in READINGS:
        picked = choose(noise, available, wins, reading)
        for i in range(50):
            there = [k for k in range(7) if available[i, k]]
            for s in range(3):
                by = 0 if reading == "unseen" else s
                winning = [k for k in there if wins[by, i, k]]
                expected = least(i, there if reading == "model" else winning)
                if expected is None and reading == "unseen":
                    expected = least(i, there)
                if expected is not None:
                    assert picked[s, i] == expected


def test_a_row_counts_successes_and_averages_over_them() -> None:
    own = Candidates(
        success=np.ones((2, 2), bool),
        noise=np.array([[1.0, 2.0], [4.0, 8.0]]),
        targets=np.array([[1, 2], [1, 2]]),
        said=np.array([[[1, 2], [0, 2]], [[1, 0], [0, 0]], [[1, 2], [0, 0]]]),
        clean=np.array([[0, 0], [1, 0], [1, 0]]),
        lead=np.ones((3, 2, 2)),
        clean_lead=np.ones((3, 2)),
    )

    def row(reading: Reading) -> AttackRow:
        outcome = targeted([own], reading)
        names = {"group": "targeted", "attack": "T-X", "norm": 2, "defence": "region"}
        return summarise(outcome, reading=reading, random=True, **names)  # type: ignore[arg-type]

    same = row("defence")
    assert (same["success"], same["n"], same["examples"], same["norm"]) == (3, 4, 2, "L2")
    assert same["per_seed"] == [3, 1, 2]
    assert same["noise_mean"] == pytest.approx(11 / 3)
    assert (same["noise_n"], same["noise_examples"], same["already"]) == (3, 2, 0)
    assert same["naive_interval"] == [pytest.approx(v) for v in (wilson(3, 4).low, wilson(3, 4).high)]
    unseen = row("unseen")
    assert unseen["per_seed"] == [1, 2]
    assert unseen["success"] == 1.5  # the mean of two seeds
    assert unseen["already"] == 1  # the first example's first target, by both
    assert (unseen["noise_mean"], unseen["noise_n"], unseen["noise_examples"]) == (2.0, 0.5, 1)
    assert unseen["interval"][0] <= 1.5 / 4 <= unseen["interval"][1]


def test_the_interval_of_a_row_is_that_of_its_images() -> None:
    """Ten images that are broken for all nine targets or for none: nine times as wide as if all were independent."""
    said = np.repeat([[1]] * 5 + [[0]] * 5, 9, axis=1) * np.arange(1, 10)
    own = candidates(np.ones((10, 9)).tolist(), np.ones((10, 9), bool).tolist(), said.tolist())
    names = {"group": "targeted", "attack": "T-X", "norm": 2, "defence": "point"}
    row = summarise(targeted([own], "unseen"), reading="unseen", **names)  # type: ignore[arg-type]
    width, naive = (high - low for low, high in (row["interval"], row["naive_interval"]))
    assert row["success"] == 45
    assert width > 2.5 * naive
