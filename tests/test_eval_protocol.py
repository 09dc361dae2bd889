"""The protocol as arithmetic: which examples, which candidate, what counts."""

import numpy as np
import pytest

from rcfast.eval.run.protocol import (
    Candidates,
    choose,
    draw_examples,
    draw_targets,
    grid_examples,
    summarise,
    targeted,
    untargeted,
)


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


def candidates(noise: list, success: list, said: list, targets: list | None = None) -> Candidates:
    shape = np.array(noise).shape
    return Candidates(
        success=np.array(success, bool),
        noise=np.array(noise, float),
        targets=np.array(
            targets if targets is not None else np.tile(np.arange(1, shape[1] + 1), (shape[0], 1))
        ),
        said=np.array(said)[None],
    )


def test_the_two_readings_of_the_protocol_differ_as_they_must() -> None:
    # One example of label 0, three targets; the defence is fooled by the second (as 2) and third (as 1).
    own = candidates([[1.0, 2.0, 3.0]], [[True, True, True]], [[0, 2, 1]])
    truth = np.array([0])
    by_defence, by_model = untargeted([own], truth, "defence"), untargeted([own], truth, "model")
    assert (by_defence.success.tolist(), by_defence.noise.tolist()) == ([[True]], [[2.0]])
    assert (by_model.success.tolist(), by_model.noise.tolist()) == ([[False]], [[0.0]])
    # Targeted: only the second answers its own target; both readings agree where there is one candidate.
    for reading in ("defence", "model"):
        assert targeted([own], reading).success.tolist() == [[False, True, False]]


def test_a_failed_attack_is_no_candidate() -> None:
    # The clean input comes back for the first target, and the defence happens to err on it.
    own = candidates([[0.0, 2.0]], [[False, True]], [[1, 0]])
    for reading in ("defence", "model"):
        assert not untargeted([own], np.array([0]), reading).success.any()
        assert not targeted([own], reading).success.any()


def test_combined_attacks_take_the_least_noise_of_several() -> None:
    weak = candidates([[3.0, 1.0]], [[True, True]], [[1, 0]])
    strong = candidates([[5.0, 4.0]], [[True, True]], [[1, 2]])
    outcome = targeted([weak, strong], "defence")
    assert (outcome.success.tolist(), outcome.noise.tolist()) == ([[True, True]], [[3.0, 4.0]])
    outcome = targeted([weak, strong], "model")
    assert (outcome.success.tolist(), outcome.noise.tolist()) == ([[True, False]], [[3.0, 0.0]])
    outcome = untargeted([weak, strong], np.array([0]), "defence")
    assert (outcome.success.tolist(), outcome.noise.tolist()) == ([[True]], [[3.0]])


def test_choice_agrees_with_a_literal_loop() -> None:
    generator = np.random.default_rng(0)
    noise = generator.integers(1, 6, (50, 7)).astype(float)
    available, wins = generator.random((50, 7)) < 0.6, generator.random((3, 50, 7)) < 0.4
    for reading in ("defence", "model"):
        outcome = choose(noise, available, wins, reading)
        for s in range(3):
            for i in range(50):
                offered = [k for k in range(7) if available[i, k] and (reading == "model" or wins[s, i, k])]
                best = min(offered, key=lambda k: (noise[i, k], k), default=None)
                success = best is not None and bool(wins[s, i, best])
                assert outcome.success[s, i] == success
                assert outcome.noise[s, i] == (noise[i, best] if success else 0)


def test_a_row_counts_successes_and_averages_over_them() -> None:
    own = Candidates(
        success=np.ones((2, 2), bool),
        noise=np.array([[1.0, 2.0], [4.0, 8.0]]),
        targets=np.array([[1, 2], [1, 2]]),
        said=np.array([[[1, 2], [0, 2]], [[1, 0], [0, 0]]]),
    )
    row = summarise(
        targeted([own], "defence"),
        group="targeted",
        attack="T-X",
        norm=2,
        defence="region",
        reading="defence",
        random=True,
    )
    assert (row["success"], row["n"], row["per_seed"], row["norm"]) == (3, 4, [3, 1], "L2")
    assert row["noise_mean"] == pytest.approx(11 / 3)
    assert row["noise_se"] == pytest.approx(np.std([1, 2, 8], ddof=1) / 3**0.5)
