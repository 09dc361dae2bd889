"""When enough votes have been seen: the exact rule, and an anytime-valid sequential test.

Both rules look at an example only at fixed *checkpoints*, numbers of samples that depend on the rule, m,
alpha and the number of labels alone. What an example stops at is therefore a property of the example: chunks,
batches and threads cannot change it.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

Stop = Literal["sequential", "exact"]
GROWTH = (
    1.25  # sequential checkpoints grow by this factor: at most a quarter more samples than the rule needs
)
EXACT_LOOKS = 32  # exact checkpoints lie m/32 samples apart
BOLDEST, STAKES = 0.96, 40  # the largest stake of the sequential test, and how many there are
ANY_LABEL = 0.05  # of the sequential test's means: laid on labels that the opening may have missed


def check_stop(stop: str | None) -> Stop | None:
    """The name of a stopping rule, checked. Raises ValueError."""
    if stop is not None and stop not in get_args(Stop):
        raise ValueError(f"stop must be 'sequential', 'exact' or None, got {stop!r}")
    return stop  # type: ignore[return-value]


def leaders(counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two labels that matter: ``counts`` [..., L] int -> (a, b, surplus), int64 [...].

    ``a`` and ``b`` are the votes of leader and runner-up, ties going to the lower label. ``surplus`` is the
    largest number of votes that the runner-up could still receive without becoming the winner: a - b, less
    one where the runner-up has the lower label and so would win a tie.
    """
    counts = counts.to(torch.int64)
    first = counts.argmax(-1, keepdim=True)  # the lowest of those that tie
    rest = counts.scatter(-1, first, -1)
    second = rest.argmax(-1, keepdim=True)
    a, b = counts.gather(-1, first)[..., 0], rest.gather(-1, second)[..., 0]
    return a, b, a - b - (second < first)[..., 0].to(torch.int64)


def exact(counts: Tensor, remaining: int | Tensor) -> Tensor:
    """Whether ``remaining`` further votes cannot change the winner: ``counts`` [..., L] int -> bool [...].

    With weights, both are in their units, ``remaining`` the most that further points can give.

    The winner is the label with the most votes, the lowest of those that tie. Where this holds, it is the
    winner of all votes, whatever the remaining ones are; where it does not, some course of them changes the
    winner.
    """
    return leaders(counts)[2] >= remaining


def log_wealth(a: Tensor, b: Tensor) -> Tensor:
    """log V(a, b), float64: what betting on a label against a rival has made of 1 after a and b votes [...].

    V(a, b) = sum_k w_k (1 + s_k)^a (1 - s_k)^b mixes stakes s_k = 0.96 * 2^(-k/2), k = 0 ... 39, with weights
    w_k proportional to (k+1)^-2: the boldest stake ends unanimous votes, the timid ones find small leads.
    """
    k = torch.arange(STAKES, dtype=torch.float64, device=a.device)
    stake, weight = BOLDEST * 2 ** (-k / 2), (k + 1) ** -2
    a, b = a.to(torch.float64)[..., None], b.to(torch.float64)[..., None]
    parts = (weight / weight.sum()).log() + a * torch.log1p(stake) + b * torch.log1p(-stake)
    return parts.logsumexp(-1)


def sequential(
    counts: Tensor, opening: Tensor, alpha: float, *, unit: int = 1, opened: int | None = None
) -> Tensor:
    """Whether the leader has been proven to be the label of the largest share: ``counts`` and ``opening``
    [..., L] int -> bool [...].

    ``opening`` are the counts after the first n_1 >= 1 votes, the same n_1 at every look. With the leader i at
    a votes, the runner-up at b and q = 0.95 * (share of i in the opening) + 0.05/(L-1), the test accepts when
    q * V(a-1, b) >= 1/alpha, V as in :func:`log_wealth`. It may be asked after every vote from n_1 on, or at any
    selection of times: the probability that it *ever* accepts a label which is not one of largest share is at
    most alpha.

    Why. Let M be a label of the largest share, and H the statement that it is one. A bet on label i against M
    multiplies a stake-s wealth by 1+s at a vote for i, 1-s at one for M, and leaves it at any other: under H its
    mean factor is 1 + s(p_i - p_M) <= 1. So V(votes of i, votes of M), a mixture, is a nonnegative supermartingale
    that starts at 1. So is, from n_1 on, the bet on the label of the k-th vote, k <= n_1, laid on all votes but
    that one: given the k-th vote, the others are as random as ever. The average of these bets over k, 95%, and
    over all labels i but M, 5%, therefore has a mean of at most 1, and by Ville's inequality ever reaches
    1/alpha with probability at most alpha. Where the test accepts a label i other than M, it has: the bets on i
    alone hold q * V(a-1, votes of M) of it (V grows with a), which is at least q * V(a-1, b), as M has at most the
    b votes of the runner-up and V falls with b. One hypothesis, H, is tested, not L-1 pairs: there is nothing to
    sum over, and the number of labels costs next to nothing. (Betting: Waudby-Smith and Ramdas, "Estimating means
    of bounded random variables by betting", 2024; Ville, 1939.)

    Weights. The same holds where a point t gives the labels weights w_j(t) >= 0, at most 1 in all, ``counts`` are their
    sums in units of 1/``unit``, n_1 = ``opened``, and M has the largest mean weight. A stake-s wealth is multiplied by
    1 + s(w_i - w_M), whose mean under H is at most 1. As the logarithm is concave and (w_i, w_M) lies between (1, 0),
    (0, 1) and (0, 0), that factor is at least (1+s)^w_i (1-s)^w_M: V(sum of w_i, sum of w_M) is at most the wealth.
    The opening bet on the k-th point is shared among the labels by its weights, which hold at most 1 in all; of label
    i's part w_i(k) what is left without that point is at least V(a - w_i(k), b) >= V(a-1, b). With one label at weight
    1 all of it is as above.
    """
    a, b, _ = leaders(counts)
    leader = counts.argmax(-1, keepdim=True)
    votes = opening.sum(-1) if opened is None else unit * opened
    share = opening.gather(-1, leader)[..., 0].to(torch.float64) / votes
    q = (1 - ANY_LABEL) * share + ANY_LABEL / (counts.shape[-1] - 1)
    return (a > b) & (
        q.log() + log_wealth(a.to(torch.float64) / unit - 1, b.to(torch.float64) / unit) >= -math.log(alpha)
    )


def unanimous_length(num_classes: int, alpha: float) -> int:
    """The unanimous votes at which :func:`sequential` accepts: 12 at alpha = 1e-3."""
    n = torch.arange(1, 64 + math.ceil(2 * math.log2(1 / alpha)), device="cpu")
    q = 1 - ANY_LABEL + ANY_LABEL / (num_classes - 1)
    accepted = math.log(q) + log_wealth(n - 1, torch.zeros_like(n)) >= -math.log(alpha)
    return int(n[accepted][0])


@dataclass(frozen=True)
class StoppingRule:
    """A stopping rule for ``m`` votes over ``num_classes`` labels.

    ``exact``: checkpoints at m//2 + 1, where a unanimous vote is settled, then every m/32 samples. ``sequential``:
    at the length at which a unanimous vote is accepted, then 1.25 times as many each time, and those of ``exact``
    from m/2 on; it ends at its test, or at the exact rule, as all m votes would not change its label any more.
    None: at m alone.
    """

    stop: Stop | None
    m: int
    num_classes: int
    alpha: float = 1e-3
    unit: int = 1  # of the counts: a vote, or a part of a weight

    def checkpoints(self) -> list[int]:
        """Increasing numbers of samples at which examples may stop; the last is m."""
        return list(_checkpoints(self))

    def judge(self, counts: Tensor, opening: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        """Who stops at the checkpoint ``samples``: ``counts`` [B, L] int32, and as they were at the first
        checkpoint, ``opening`` -> (stops, decided), bool [B].

        ``decided``: the label is what the rule promises. ``exact`` and None promise the label of all m votes;
        ``sequential`` promises the label of the largest share, and only its test can decide that.
        """
        last = samples >= self.m
        everyone = torch.ones(len(counts), dtype=torch.bool, device=counts.device)
        if self.stop is None:
            return everyone, everyone
        if self.stop == "exact":
            stops = everyone if last else exact(counts, self.unit * (self.m - samples))
            return stops, stops
        weights = {} if self.unit == 1 else {"unit": self.unit, "opened": self.checkpoints()[0]}
        decided = sequential(counts, opening, self.alpha, **weights)
        return (everyone if last else decided | exact(counts, self.unit * (self.m - samples))), decided


@lru_cache(maxsize=64)  # asked for at every vote
def _checkpoints(rule: StoppingRule) -> list[int]:
    if rule.stop is None:
        return [rule.m]
    half = rule.m // 2 + 1
    late = [*range(half, rule.m, max(1, rule.m // EXACT_LOOKS)), rule.m]
    if rule.stop == "exact":
        return late
    early, n = [], unanimous_length(rule.num_classes, rule.alpha)
    while n < half:
        early.append(n)
        n = math.ceil(n * GROWTH)
    return early + late
