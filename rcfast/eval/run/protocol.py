"""The protocol of the paper (section 6.3) as arithmetic: which examples, which candidate, what counts.

N examples, T targets each, K candidates of one item, S vote seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rcfast.eval.results import AttackRow, Group, Reading
from rcfast.eval.statistics import mean_and_error

READINGS: tuple[Reading, ...] = ("defence", "model")
NORMS = {0: "L0", 2: "L2", float("inf"): "Linf"}

COMBINED = {"CA-L0": ("JSMA", "CW-L0"), "CA-Linf": ("FGSM", "IGSM", "CW-Linf"), "CA-L2": ("CW-L2",)}


def shuffled(count: int, seed: int) -> np.ndarray:
    """Return a permutation [count], the same in every NumPy version (raw generator output is stable)."""
    return np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable")


def draw_examples(y: np.ndarray, predicted: np.ndarray, *, count: int, seed: int) -> np.ndarray:
    """Return indices of at most `count` test examples drawn among those classified correctly."""
    correct = np.flatnonzero(y == predicted)
    return correct[shuffled(len(correct), seed)][:count]


def grid_examples(
    y: np.ndarray, predicted: np.ndarray, *, drawn: np.ndarray, rows: int, seed: int
) -> np.ndarray:
    """Return the index of a correctly classified example of each label below `rows`, -1 for none.

    Drawn examples come first, so that a grid seldom needs an attack of its own.
    """
    correct = np.flatnonzero(y == predicted)
    order = np.concatenate([drawn, correct[shuffled(len(correct), seed)]])
    found = np.full(rows, -1, dtype=np.int64)
    for label in range(rows):
        own = order[y[order] == label]
        if len(own):
            found[label] = own[0]
    return found


def draw_targets(y: np.ndarray, *, num_classes: int, count: int, seed: int) -> np.ndarray:
    """Return targets [N,T] int64 in rising order: all other labels, or `count` of them for each example."""
    every = num_classes - 1
    wanted = every if count == 0 else min(count, every)
    targets = np.empty((len(y), wanted), dtype=np.int64)
    for row, label in enumerate(y):
        others = np.delete(np.arange(num_classes), label)
        chosen = others if wanted == every else others[shuffled(every, seed + row)][:wanted]
        targets[row] = np.sort(chosen)
    return targets


@dataclass(frozen=True)
class Candidates:
    """What one attack produced for all examples, and what a defence says about it.

    success [N,T] by the attacked network; noise [N,T] in the attack's norm; targets [N,T]
    (untargeted attacks: T = 1 and targets = true labels); said [S,N,T] labels by the defence for each
    vote seed.
    """

    success: np.ndarray
    noise: np.ndarray
    targets: np.ndarray
    said: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """success [S,M] and noise [S,M] of M items; noise is 0 where there was no success."""

    success: np.ndarray
    noise: np.ndarray


def choose(noise: np.ndarray, available: np.ndarray, wins: np.ndarray, reading: Reading) -> Outcome:
    """Choose the least noisy of the K candidates of every item.

    noise, available [M,K]; wins [S,M,K]: the defence under measurement is fooled by the candidate.
    reading "defence": among the available ones that win; "model": among the available ones, then it
    wins or not. The first of equals is taken.
    """
    offered = available & wins if reading == "defence" else np.broadcast_to(available, wins.shape)
    cost = np.where(offered, noise, np.inf)
    pick = cost.argmin(axis=2)[..., None]
    success = np.take_along_axis(offered & wins, pick, axis=2)[..., 0]
    chosen = np.take_along_axis(np.broadcast_to(noise, wins.shape), pick, axis=2)[..., 0]
    return Outcome(success, np.where(success, chosen, 0.0))


def targeted(candidates: Sequence[Candidates], reading: Reading) -> Outcome:
    """Return the outcome of N*T items (example, target); several attacks combine into T-CA."""
    first = candidates[0]
    seeds, items = first.said.shape[0], first.success.size
    noise = np.stack([c.noise.reshape(items) for c in candidates], axis=1)
    available = np.stack([c.success.reshape(items) for c in candidates], axis=1)
    wins = np.stack([(c.said == c.targets).reshape(seeds, items) for c in candidates], axis=2)
    return choose(noise, available, wins, reading)


def untargeted(candidates: Sequence[Candidates], true_labels: np.ndarray, reading: Reading) -> Outcome:
    """Return the outcome of N examples: every target of every attack is a candidate (U-X, U-CA, DeepFool)."""
    noise = np.concatenate([c.noise for c in candidates], axis=1)
    available = np.concatenate([c.success for c in candidates], axis=1)
    wins = np.concatenate([c.said != true_labels[None, :, None] for c in candidates], axis=2)
    return choose(noise, available, wins, reading)


def summarise(
    outcome: Outcome,
    *,
    group: Group,
    attack: str,
    norm: float,
    defence: str,
    reading: Reading,
    parameter: float | None = None,
    random: bool = False,
) -> AttackRow:
    """Return one row of the results; the first vote seed makes the numbers, `random` adds every seed's."""
    success, noise = outcome.success[0], outcome.noise[0]
    mean = mean_and_error(noise[success].tolist())
    return {
        "group": group,
        "attack": attack,
        "norm": NORMS[norm],  # type: ignore[typeddict-item]
        "defence": defence,
        "reading": reading,
        "parameter": parameter,
        "success": int(success.sum()),
        "n": int(success.size),
        "noise_mean": mean.mean,
        "noise_se": mean.se,
        "per_seed": [int(s.sum()) for s in outcome.success] if random else [],
    }
