"""The size of a noise at which a vote is won safely: a fit to votes at several sizes, not a choice among them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from rcfast.attacks._sampled import Sampled
from rcfast.attacks.margins import margin, resolution

ROUNDS, MOST_ROUNDS = 6, 18  # at least, and where the last one still moved the size by more than NEAR
NEAR = 0.03
FURTHEST = 0.2  # change of the logarithm of the size from one round to the next
SLOPE = 5.0  # expected rise of atanh(lead) with the logarithm of the size; on MNIST it was 4 to 6
SURE_OF_SLOPE = 0.03  # the spread of sizes at which the votes count as much as the expectation
MORE = 5  # times that a whole size may grow
MOST = 0.9  # a lead beyond it says no more about where the edge is
DOUBLINGS, HALVINGS = 3, 24
RAISES, FIRST_RAISE = 6, 0.02  # of a size at which votes do not lead: by 2%, 4%, 8%, ...; halvings afterwards


def needed(m: int, votes: int, certainty: float) -> float:
    """The lead, as a share of the votes, at which a vote of m points is won with that many standard deviations to
    spare, when the lead is known from so many votes."""
    return min(MOST, certainty * math.sqrt(1 / m + 1 / votes))


def settle(
    vote: Sampled,
    rows: Tensor,
    labels: Tensor,
    at: Callable[[Tensor], Tensor],
    size: Tensor,
    *,
    votes: int,
    certainty: float,
    purpose: str = "settle",
) -> Tensor:
    """The sizes [n], near `size` [n], at which the points at(size) [n,...] are labelled as the target.

    A choice among noisy votes would prefer lucky ones: of examples selected on one seed some fail on the next. Instead
    atanh of the lead is fitted as a line in the logarithm of the size, to votes at sizes that close in on the
    needed lead. A plain network is asked by bisection. `purpose` names the votes: others for each.
    """
    if not vote.votes:
        return _bisect(vote, rows, labels, at, size)
    assert vote.voter is not None
    wanted = math.atanh(needed(vote.voter.m, votes, certainty))
    share = -(-votes // ROUNDS)
    prior = votes * SURE_OF_SLOPE**2
    place = size.double().log()
    places, leads, weights = [], [], []
    active = torch.arange(len(size), device=size.device)
    for i in range(MOST_ROUNDS):
        everywhere = at(place.exp().to(size.dtype))
        told = vote.vote(everywhere[active], rows[active], purpose=f"{purpose} {i}", m=share)
        lead = vote.lead(told, labels[active], targeted=True).double().clamp(-MOST, MOST)
        known = torch.zeros_like(place)  # a weight of 0: this row was not asked
        places.append(place)
        leads.append(known.index_copy(0, active, torch.atanh(lead)))
        weights.append(known.index_copy(0, active, share * (1 - lead.square())))
        s, z, w = torch.stack(places), torch.stack(leads), torch.stack(weights)
        middle, height = (w * s).sum(0) / w.sum(0), (w * z).sum(0) / w.sum(0)
        apart = w * (s - middle)
        slope = ((apart * (z - height)).sum(0) + prior * SLOPE) / ((apart * (s - middle)).sum(0) + prior)
        goal = middle + (wanted - height) / slope.clamp(min=SLOPE / 5)
        next_place = torch.minimum(torch.maximum(goal, place - FURTHEST), place + FURTHEST)
        moved = (next_place - place).abs()
        place = torch.where(known.index_fill(0, active, 1) > 0, next_place, place)
        if i >= ROUNDS - 1:
            active = active[moved[active] > NEAR]
            if not len(active):
                break
    return place.exp().to(size.dtype)


def settle_whole(
    vote: Sampled,
    rows: Tensor,
    labels: Tensor,
    at: Callable[[Tensor], Tensor],
    size: Tensor,
    *,
    votes: int,
    certainty: float,
    purpose: str = "settle",
) -> Tensor:
    """Like :func:`settle` for whole sizes: from the fit's on, one more until the votes lead by what is needed."""
    size = settle(vote, rows, labels, at, size, votes=votes, certainty=certainty, purpose=purpose)
    size = size.ceil().clamp(min=1)
    if not vote.votes:
        return size
    assert vote.voter is not None
    wanted = needed(vote.voter.m, votes, certainty)
    short = torch.arange(len(size), device=size.device)
    for i in range(MORE):
        told = vote.vote(at(size)[short], rows[short], purpose=f"{purpose} whole {i}", m=votes)
        short = short[vote.lead(told, labels[short], targeted=True) < wanted]
        if not len(short):
            break
        size[short] += 1
    return size


def raised(
    leads: Callable[[Tensor, Tensor, str], Tensor], size: Tensor, short: Tensor, *, whole: bool
) -> Tensor:
    """Sizes [n] that are larger for the `short` [n], so that these lead too, where that does it.

    leads: of sizes [n], which of some rows [k] lead, by votes of a name. A fit of a line ends anywhere where votes
    change all at once with the size, as in small regions or on a grid: these are tried one after the other.
    """
    low, high, rows = size, size.clone(), short.nonzero().flatten()
    for i in range(RAISES):
        high[rows] += torch.clamp(high[rows] * FIRST_RAISE * 2**i, min=float(whole))
        high = high.ceil() if whole else high
        rows = rows[~leads(high, rows, f"raised {i}")]
        if not len(rows):
            break
    high[rows] = size[rows]
    rows = ((high > size) & short).nonzero().flatten()
    for i in range(RAISES if len(rows) else 0):
        middle = (low + high) / 2
        middle = middle.floor() if whole else middle
        won = torch.zeros_like(short).index_copy(0, rows, leads(middle, rows, f"halved {i}"))
        low, high = torch.where(won, low, middle), torch.where(won, middle, high)
    return high


def _bisect(
    vote: Sampled, rows: Tensor, labels: Tensor, at: Callable[[Tensor], Tensor], size: Tensor
) -> Tensor:
    def wins(size: Tensor) -> Tensor:
        logits = vote.logits(at(size), rows, first=0, samples=1)[:, 0]
        return margin(logits, labels, targeted=True) > resolution(logits, labels)

    low, high = 0.5 * size, 2 * size
    for _ in range(DOUBLINGS):
        high = torch.where(wins(high), high, 2 * high)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        won = wins(middle)
        low, high = torch.where(won, low, middle), torch.where(won, middle, high)
    return high
