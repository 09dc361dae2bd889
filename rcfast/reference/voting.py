"""The tally of labels, and who stops."""

import torch
from torch import Tensor

from ..stopping import Stop, StoppingRule


def vote(counts: Tensor, logits: Tensor) -> Tensor:
    """``counts`` [B, L] int32 plus the histogram of the argmax of ``logits`` [B, s, L] over s.

    Ties go to the lowest label. A row with a NaN casts no vote.
    """
    labels = counts.shape[1]
    valid = ~logits.isnan().any(-1)
    best = logits.max(-1, keepdim=True).values
    first = torch.where(logits == best, torch.arange(labels, device=logits.device), labels).amin(-1)
    votes = torch.zeros_like(counts)
    votes.scatter_add_(1, first.clamp(max=labels - 1), valid.to(counts.dtype))
    return counts + votes


def judge(
    counts: Tensor,
    opening: Tensor,
    votes: Tensor,
    *,
    checkpoints: list[int],
    opens: bool,
    m: int,
    stop: Stop | None,
    alpha: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Examples carried on from checkpoint to checkpoint until they stop, none of their votes missing.

    ``counts`` and ``opening`` [A, L] int32, ``votes`` [A, K, L] -> counts and opening after it, and samples,
    decided and stopped [A].
    """
    rule = StoppingRule(stop, m, counts.shape[1], alpha)
    stopped = torch.zeros(len(counts), dtype=torch.bool)
    samples, decided = torch.zeros(len(counts), dtype=torch.int64), stopped.clone()
    for k, reached in enumerate(checkpoints):
        counts = torch.where(stopped[:, None], counts, counts + votes[:, k])
        if opens and k == 0:
            opening = counts
        stops, proven = rule.judge(counts, opening, reached)
        samples = torch.where(stopped, samples, reached)
        decided = torch.where(stopped, decided, proven)
        stopped = stopped | stops
    return counts, opening, samples, decided, stopped


def exp_units(d: Tensor) -> Tensor:
    """floor(e^d · 2^30) of float32 d <= 0 by correctly rounded operations in a fixed order: int64."""
    d = torch.where(d > -24, d, -24.0)
    k = (d * 1.44269504 + 12582912.0) - 12582912.0
    r = (d + k * -0.693359375) + k * 2.12194440e-4
    series = torch.full_like(d, 1 / 5040)
    for power in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0):
        series = series * r + torch.tensor(power, dtype=torch.float32)
    return torch.ldexp(series, k + 30).to(torch.int64)


def vote_soft(
    totals: Tensor, cast: Tensor, logits: Tensor, *, mode: str, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``totals`` [B, L] int64 and ``cast`` [B] int32 plus what ``logits`` [B, s, L] give, in units of 2^-24.

    ``softmax``: each label its probability; ``margin``: the argmax the difference between the two greatest;
    ``weighted``: the argmax ``weights`` [B, s]. A row with a NaN gives nothing and is not counted.
    """
    z = logits.to(torch.float32)
    valid = ~z.isnan().any(-1)
    greatest = z.amax(-1, keepdim=True)
    units = torch.where(z == greatest, 1 << 30, exp_units((z - greatest).nan_to_num(neginf=-24.0)))
    scale = (((1 << 24) - 8) / units.sum(-1, keepdim=True).to(torch.float64)).to(torch.float32)
    shares = (units.to(torch.float32) * scale).to(torch.int64)
    labels = z.shape[-1]
    top = (
        torch.where(z == greatest, torch.arange(labels, device=z.device), labels)
        .amin(-1)
        .clamp(max=labels - 1)
    )
    chosen = torch.nn.functional.one_hot(top, labels)
    if mode == "margin":
        second = torch.where(chosen.bool(), -1, shares).amax(-1)
        shares = chosen * (shares.gather(-1, top[..., None])[..., 0] - second)[..., None]
    if weights is not None:
        shares = chosen * weights.to(torch.int64)[..., None]
    given = torch.where(valid[..., None], shares, 0)
    return totals + given.sum(1), cast + valid.sum(1, dtype=torch.int32)
