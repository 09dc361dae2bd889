"""What an attack spends: forward and backward passes of each example, and what it had found after so many of them."""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from rcfast.attacks import Attack
from rcfast.attacks.margins import margin
from rcfast.eval.run.store import Arrays

BUDGETS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)  # forward and backward passes together


class Spent:
    """Observes one attack on clean [R,...], labels [R]; see rcfast.attacks.attacked.observers. Waits for no GPU.

    A point counts as found when the attack's own judgement accepts it, inside [0,1] and beyond what may be rounding.
    """

    def __init__(self, attack: Attack, clean: Tensor, labels: Tensor) -> None:
        self.attack, self.clean, self.labels = attack, clean, labels
        self.forward, self.backward = torch.zeros_like(labels), torch.zeros_like(labels)
        shape = (len(BUDGETS), len(clean))
        self.within = torch.full(shape, torch.inf, dtype=torch.float64, device=clean.device)
        self.budgets = torch.tensor(BUDGETS, device=clean.device)[:, None]

    @torch.no_grad()
    def __call__(self, x: Tensor, logits: Tensor, rows: Tensor, rough: bool) -> None:
        self.forward.index_add_(0, rows, torch.ones_like(rows))
        if x.requires_grad and logits.requires_grad:
            x.register_hook(partial(self._back, rows))
        found = self.attack._judges(logits, self.labels[rows]) & ((x >= 0) & (x <= 1)).flatten(1).all(1)
        if rough:
            rounding = torch.finfo(torch.bfloat16).eps / 2 * logits.abs().amax(1)
            found &= margin(logits, self.labels[rows], targeted=self.attack.targeted) > rounding
        noise = self._noise(x.detach(), self.clean[rows]).masked_fill(~found, torch.inf)
        spent = (self.forward + self.backward)[rows]
        cost = torch.where(spent <= self.budgets, noise, torch.inf)
        self.within.scatter_reduce_(1, rows.expand_as(cost), cost, "amin")

    def _back(self, rows: Tensor, gradient: Tensor) -> None:
        self.backward.index_add_(0, rows, torch.ones_like(rows))

    def _noise(self, x: Tensor, clean: Tensor) -> Tensor:
        delta = (x - clean).flatten(1).double()
        if self.attack.norm == 0:
            return (delta != 0).sum(1).double()
        return torch.linalg.vector_norm(delta, ord=self.attack.norm, dim=1)

    def arrays(self, shape: tuple[int, ...]) -> Arrays:
        """Return forward, backward [*shape] int64 and within [Q,*shape] float64, inf where nothing was found yet."""
        return {
            "forward": self.forward.cpu().numpy().reshape(shape),
            "backward": self.backward.cpu().numpy().reshape(shape),
            "within": self.within.cpu().numpy().reshape(-1, *shape),
        }


def least_within(arrays: Arrays, budget: int) -> np.ndarray | None:
    """Return the noise [n,T] that an attack had got down to within a budget; None for a part that did not record it."""
    if "within" not in arrays or budget not in BUDGETS:
        return None
    return arrays["within"][BUDGETS.index(budget)]
