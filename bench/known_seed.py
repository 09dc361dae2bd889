"""What it is worth to know the seed of a vote: a search for an input with friendly points; `attacks.py --vote`.

By default a vote's points follow from seed 0 and the input's content, so that whoever has the network can draw them
offline: of many inputs that differ by nothing that matters, one gets 12 points that all say the target, upon which a
sequential vote is sure of it. A vote under a secret key has other points there, which say what the region says.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import torch
from common import commit
from torch import Tensor, nn

from rcfast import RegionClassifier
from rcfast.attacks import RegionCW
from rcfast.regions import content_ids, sample
from rcfast.stopping import unanimous_length

SHARES = (0.45, 0.4)  # of the region's points, that say the target
TRIES, BATCH = 300_000, 1000
KEYS = 50  # votes under secret keys, of each input that was found
STEP = 2.0**-20  # by which the inputs differ, in one of two coordinates


def known_seed(model: nn.Module, x: Tensor, targets: Tensor, r: float) -> dict[str, Any]:
    """x [n,...], targets [n]: rows of one image; of the least noisy one that RegionCW finds, what tries find."""
    vote = RegionClassifier(model, r)
    result = RegionCW()(vote, x, targets)
    row = int(torch.where(result.success, result.noise.l2, torch.inf).argmin())
    clean, target = x[row : row + 1], int(targets[row])
    found = [_search(vote, clean, result.adversarial[row : row + 1], target, share) for share in SHARES]
    return {
        "target": target,
        "l2_region_cw": float(result.noise.l2[row]),
        "found": found,
        "load": os.getloadavg()[0],
        "commit": commit(),
    }


def _search(
    vote: RegionClassifier, clean: Tensor, adversarial: Tensor, target: int, share: float
) -> dict[str, Any]:
    low, high = 0.0, 1.0
    for _ in range(12):  # of the way from the clean image [1,...] to where the region says the target
        middle = (low + high) / 2
        less = float(_shares(vote, clean.lerp(adversarial, middle), m=4000)[target]) < share
        low, high = (middle, high) if less else (low, middle)
    base = clean.lerp(adversarial, high).clamp(0, 1)
    shares = _shares(vote, base, m=40_000)
    found: dict[str, Any] = {
        "share": float(shares[target]),
        "rival": float(shares[torch.arange(len(shares)) != target].max()),
        "tries": 0,
        "passes": 0,
        "l2": None,
    }
    for inputs in _variants(base):
        lucky, passes = _unanimous(vote, inputs, target, unanimous_length(len(shares), vote.alpha))
        found["tries"] += len(inputs)
        found["passes"] += passes
        for at in lucky.tolist():
            winner = inputs[at : at + 1]
            said = vote.vote(winner)
            if int(said.label) != target or not said.decided:
                continue  # the network rounds by the number of rows
            keyed = [RegionClassifier(vote.model, vote.region, seed=None).vote(winner) for _ in range(KEYS)]
            return {
                **found,
                "l2": float((winner - clean).norm()),
                "samples": int(said.samples),
                "keyed": sum(int(other.label) == target for other in keyed),
                "keys": KEYS,
            }
    return found


def _shares(vote: RegionClassifier, x: Tensor, *, m: int) -> Tensor:
    """The share of each label [L] among m points of the region around x [1,...], drawn under another seed."""
    return RegionClassifier(vote.model, vote.region, seed=1).tally(x, 0, m)[0].double() / m


def _variants(base: Tensor) -> Iterator[Tensor]:
    """Batches of inputs [BATCH,...] that differ from base [1,...] by at most BATCH·STEP in two coordinates."""
    up = torch.where(base.flatten() < 0.5, STEP, -STEP)
    for batch in range(TRIES // BATCH):
        inputs = base.flatten(1).repeat(BATCH, 1)
        inputs[:, 0] += up[0] * torch.arange(BATCH)
        inputs[:, -1] += up[-1] * batch
        yield inputs.view(BATCH, *base.shape[1:])


@torch.inference_mode()
def _unanimous(vote: RegionClassifier, inputs: Tensor, target: int, votes: int) -> tuple[Tensor, int]:
    """Which of the inputs [n,...] have first points, so many votes, that all say the target, and the passes spent."""
    assert vote.seed is not None
    ids, left, passes = content_ids(inputs), torch.arange(len(inputs)), 0
    for drawn in range(votes):
        if not len(left):
            break
        one = sample(inputs[left], vote.region, 1, seed=vote.seed, example_ids=ids[left], first_sample=drawn)
        passes += len(left)
        left = left[vote.model(one[:, 0]).argmax(1) == target]
    return left, passes


def known_seed_bars(piece: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """A known seed is found an input for; secret keys say of it what the region says, but for one vote's chance."""
    rows = []
    for found in piece["found"]:
        name = f"known seed, share {found['share']:.3f} of the region"
        if found["l2"] is None:
            rows.append((name, f"nothing in {found['tries']:,} tries", "", True))
            continue
        said = (
            f"decided in {found['samples']} points after {found['tries']:,} tries, {found['passes']:,} passes"
        )
        less = f"{found['l2']:.3f}, RegionCW {piece['l2_region_cw']:.3f}"
        keyed = f"{found['keyed']} of {found['keys']}"
        rows += [
            (f"{name}: the vote says the target", said, "", True),
            (f"{name}: L2 noise", less, "", True),
            (f"{name}: the target under secret keys", keyed, "at most 1", found["keyed"] <= 1),
        ]
    return rows
