"""The protocol of the paper (section 6.3) as arithmetic: which examples, which candidate, what counts.

N examples, T targets each, K candidates of one item, S vote seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rcfast.eval.results import Reading

READINGS: tuple[Reading, ...] = ("unseen", "defence", "model")
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
    vote seed; clean [S,N] those of the clean examples; lead, clean_lead: by which share of the votes these labels lead,
    1 where nothing is random.
    """

    success: np.ndarray
    noise: np.ndarray
    targets: np.ndarray
    said: np.ndarray
    clean: np.ndarray
    lead: np.ndarray
    clean_lead: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """What an attack achieves on N examples with T items each, judged by S vote seeds; all [S,N,T].

    success; noise: 0 where there was no success; already: the clean example is a success, no attack is needed.
    """

    success: np.ndarray
    noise: np.ndarray
    already: np.ndarray


def choose(noise: np.ndarray, available: np.ndarray, wins: np.ndarray, reading: Reading) -> np.ndarray:
    """Choose the least noisy of the K candidates of every item: index [S,M], for each vote seed.

    noise, available [M,K]; wins [S,M,K]: the defence under measurement is fooled by the candidate.
    reading "defence": among the available ones that win; "model": among the available ones; "unseen": as "defence" by
    the votes of the first seed, whichever seed judges, and as "model" where none wins. The first of equals is taken.
    """
    by_model = np.where(available, noise, np.inf).argmin(axis=1)
    if reading == "model":
        return np.broadcast_to(by_model, wins.shape[:2])
    offered = available & wins
    by_votes = np.where(offered, noise, np.inf).argmin(axis=2)
    if reading == "defence":
        return by_votes
    return np.broadcast_to(np.where(offered[0].any(1), by_votes[0], by_model), wins.shape[:2])


def judging(seeds: int) -> slice:
    """Return which of so many vote seeds judge: those that the attacker does not use, where there are any."""
    return slice(1, None) if seeds > 1 else slice(None)


def _outcome(
    noise: np.ndarray, available: np.ndarray, wins: np.ndarray, already: np.ndarray, reading: Reading
) -> Outcome:
    """Judge the chosen candidates; already [S,N,T]. Of reading "unseen" the seed that chose judges only if alone."""
    pick = choose(noise, available, wins, reading)[..., None]
    success = np.take_along_axis(available & wins, pick, axis=2)[..., 0]
    chosen = np.take_along_axis(np.broadcast_to(noise, wins.shape), pick, axis=2)[..., 0]
    who = judging(len(wins)) if reading == "unseen" else slice(None)
    shape = already.shape
    noises = np.where(success, chosen, 0.0).reshape(shape)
    return Outcome(success.reshape(shape)[who], noises[who], already[who])


def targeted(candidates: Sequence[Candidates], reading: Reading) -> Outcome:
    """Return the outcome of N examples with T targets each; several attacks combine into T-CA."""
    first = candidates[0]
    seeds, items = first.said.shape[0], first.success.size
    noise = np.stack([c.noise.reshape(items) for c in candidates], axis=1)
    available = np.stack([c.success.reshape(items) for c in candidates], axis=1)
    wins = np.stack([(c.said == c.targets).reshape(seeds, items) for c in candidates], axis=2)
    return _outcome(noise, available, wins, first.clean[..., None] == first.targets, reading)


def untargeted(candidates: Sequence[Candidates], true_labels: np.ndarray, reading: Reading) -> Outcome:
    """Return the outcome of N examples: every target of every attack is a candidate (U-X, U-CA, DeepFool)."""
    noise = np.concatenate([c.noise for c in candidates], axis=1)
    available = np.concatenate([c.success for c in candidates], axis=1)
    wins = np.concatenate([c.said != true_labels[None, :, None] for c in candidates], axis=2)
    already = (candidates[0].clean != true_labels)[..., None]
    return _outcome(noise, available, wins, already, reading)
