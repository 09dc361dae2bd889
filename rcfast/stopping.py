"""When enough votes have been seen: the exact rule, and an anytime-valid sequential test.

Both rules look at an example only at fixed *checkpoints*, numbers of samples that depend on the rule, m,
alpha and the number of labels alone. What an example stops at is therefore a property of the example: chunks,
batches and threads cannot change it.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Stop = Literal["sequential", "exact"]
GROWTH = (
    1.25  # sequential checkpoints grow by this factor: at most a quarter more samples than the rule needs
)
EXACT_LOOKS = 32  # exact checkpoints lie m/32 samples apart


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
    labels = counts.shape[-1]
    # One sortable key per label: votes first, then the lower label. m < 2^31 and L <= 10^5 keep it below
    # 2^48.
    keys = counts.to(torch.int64) * labels + torch.arange(labels - 1, -1, -1, device=counts.device)
    first, second = keys.topk(2).values.unbind(-1)
    return first // labels, second // labels, (first - second - 1) // labels


def exact(counts: Tensor, remaining: int | Tensor) -> Tensor:
    """Whether ``remaining`` further votes cannot change the winner: ``counts`` [..., L] int -> bool [...].

    The winner is the label with the most votes, the lowest of those that tie. Where this holds, it is the
    winner of all votes, whatever the remaining ones are; where it does not, some course of them changes the
    winner.
    """
    return leaders(counts)[2] >= remaining


def log_density(a: Tensor, b: Tensor) -> Tensor:
    """log of (a+b+1)!/(a! b!) 2^-(a+b), float64: the Beta(a+1, b+1) posterior density at 1/2."""
    a, b = a.to(torch.float64), b.to(torch.float64)
    return torch.lgamma(a + b + 2) - torch.lgamma(a + 1) - torch.lgamma(b + 1) - (a + b) * math.log(2)


def sequential(counts: Tensor, alpha: float) -> Tensor:
    """Whether the leader has been proven to be the label of the largest share: ``counts`` [..., L] int ->
    bool [...].

    With the leader at a votes and the runner-up at b, the test accepts when the posterior density at 1/2,
    f(a, b) = (a+b+1)!/(a! b!) 2^-(a+b), is at most alpha/(L-1). It may be asked after every vote, or at any
    selection of times: the probability that it *ever* accepts a label which is not one of largest share is at
    most alpha (in fact alpha/2).

    Why. Let i be a label of the largest share and j another. Of the votes for i or j, each goes to j
    independently with probability theta <= 1/2. Under theta = 1/2 the mixture likelihood ratio 1/f(a, b) =
    2^(a+b) * integral of t^a (1-t)^b over [0, 1] is a nonnegative martingale that starts at 1 (Robbins,
    "Statistical methods related to the law of the iterated logarithm", 1970), so by Ville's inequality it
    ever reaches (L-1)/alpha with probability at most alpha/(L-1); by symmetry, half of that with j in the
    lead. A smaller theta only makes it less likely that j leads so far: f falls when a vote moves from b to
    a, for a >= b, so the accepted set is closed in j's favour and the two courses can be coupled. f grows
    with b up to a, hence the runner-up is the hardest of the rivals, and i itself is one of them whenever a
    wrong label leads. The sum over the L-1 labels j that could lead wrongly is at most alpha.
    """
    a, b, _ = leaders(counts)
    return (a > b) & (log_density(a, b) <= math.log(alpha / (counts.shape[-1] - 1)))


def unanimous_length(num_classes: int, alpha: float) -> int:
    """The unanimous votes at which :func:`sequential` accepts: 18 for ten labels and alpha = 1e-3."""
    limit = math.log(alpha / (num_classes - 1))
    n = 1
    while math.log(n + 1) - n * math.log(2) > limit:
        n += 1
    return n


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

    def checkpoints(self) -> list[int]:
        """Increasing numbers of samples at which examples may stop; the last is m."""
        if self.stop is None:
            return [self.m]
        half = self.m // 2 + 1
        late = [*range(half, self.m, max(1, self.m // EXACT_LOOKS)), self.m]
        if self.stop == "exact":
            return late
        early, n = [], unanimous_length(self.num_classes, self.alpha)
        while n < half:
            early.append(n)
            n = math.ceil(n * GROWTH)
        return early + late

    def judge(self, counts: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        """Who stops at the checkpoint ``samples``: ``counts`` [B, L] int32 -> (stops, decided), bool [B].

        ``decided``: the label is what the rule promises. ``exact`` and None promise the label of all m votes;
        ``sequential`` promises the label of the largest share, and only its test can decide that.
        """
        last = samples >= self.m
        everyone = torch.ones(len(counts), dtype=torch.bool, device=counts.device)
        if self.stop is None:
            return everyone, everyone
        if self.stop == "exact":
            stops = everyone if last else exact(counts, self.m - samples)
            return stops, stops
        decided = sequential(counts, self.alpha)
        return (everyone if last else decided | exact(counts, self.m - samples)), decided
