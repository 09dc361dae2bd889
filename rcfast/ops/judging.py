"""Which examples of a vote stop."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .native import check, native, operator

STOPS = {None: 0, "exact": 1, "sequential": 2}
GOES_ON, STOPPED, INCOMPLETE = 0, 1, 2  # State of csrc/kernels.h


@operator(
    "judge_(Tensor(a!) counts, Tensor(b!) opening, Tensor(c!) samples, Tensor(d!) decided, Tensor(e!) state, "
    "Tensor who, Tensor votes, SymInt[] checkpoints, bool opens, SymInt m, str? stop, float alpha) -> ()",
    keys=("CPU",),
)
def _judge_(
    counts: Tensor,
    opening: Tensor,
    samples: Tensor,
    decided: Tensor,
    state: Tensor,
    who: Tensor,
    votes: Tensor,
    checkpoints: list[int],
    opens: bool,
    m: int,
    stop: str | None,
    alpha: float,
) -> None:
    places = who.numpy()
    if len(places) and not 0 <= places.min() <= places.max() < len(counts):
        raise ValueError(f"who must lie in [0, {len(counts) - 1}], got {places.min()} to {places.max()}")
    tensors = (counts, opening, samples, decided, state, who, votes)
    sizes = (len(who), counts.shape[1], list(checkpoints))
    native().judge(*(t.data_ptr() for t in tensors), *sizes, opens, m, STOPS[stop], alpha)


def judge_(
    counts: Tensor,
    opening: Tensor,
    samples: Tensor,
    decided: Tensor,
    who: Tensor,
    votes: Tensor,
    *,
    checkpoints: Sequence[int],
    opens: bool,
    m: int,
    stop: str | None,
    alpha: float,
) -> Tensor:
    """Carry a vote on to further checkpoints, each of its examples until it stops: their states, uint8 [A].

    The rules are those of :mod:`rcfast.stopping`. In host memory whatever the device of the vote, so that one
    processor decides for all; everything contiguous.

    Args:
        counts: int32 [B, L] votes of all examples; those of the ``votes`` are added up to where an example stops.
        opening: int32 [B, L], counts at the first checkpoint of all; written where ``opens``.
        samples: int64 [B], the checkpoint reached; written.
        decided: bool [B], whether the label is what the rule promises; written.
        who: int64 [A], the examples that are judged.
        votes: int32 [A, K, L], their votes from each checkpoint to the next.
        checkpoints: the K rising numbers of samples at which they are judged.
        opens: the first of the checkpoints is the first of all.
        m, stop, alpha: of the :class:`rcfast.stopping.StoppingRule`.

    Returns:
        GOES_ON, STOPPED, or INCOMPLETE where a point cast no vote, uint8 [A].

    Raises:
        TypeError, ValueError: a dtype, shape, device or layout other than the above.
    """
    active, labels = len(who), counts.shape[1]
    wanted: dict[str, tuple[Tensor, torch.dtype, tuple[int, ...]]] = {
        "counts": (counts, torch.int32, (len(counts), labels)),
        "opening": (opening, torch.int32, (len(counts), labels)),
        "samples": (samples, torch.int64, (len(counts),)),
        "decided": (decided, torch.bool, (len(counts),)),
        "who": (who, torch.int64, (active,)),
        "votes": (votes, torch.int32, (active, len(checkpoints), labels)),
    }
    for name, (tensor, dtype, shape) in wanted.items():
        check(name, tensor, (dtype,), shape)
        if tensor.device.type != "cpu" or not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous and on the CPU, got {tensor.device}")
    if labels < 2:
        raise ValueError(f"counts must have at least 2 labels, got {labels}")
    if stop not in STOPS:
        raise ValueError(f"stop must be 'sequential', 'exact' or None, got {stop!r}")
    state = torch.empty(active, dtype=torch.uint8, device="cpu")
    _judge_(counts, opening, samples, decided, state, who, votes, list(checkpoints), opens, m, stop, alpha)
    return state
