"""Auto-PGD as published, one example at a time: Croce and Hein (2020), algorithm 1, with exact projections."""

import torch
from torch import Tensor


def nearest(x: Tensor, point: Tensor, eps: float, norm: float) -> Tensor:
    """The nearest point of [0,1] and the ball: by the multiplier of the ball's constraint, to the last bit in L2."""
    if norm != 2:
        return torch.minimum(torch.maximum(point, x - eps), x + eps).clamp(0, 1)
    low, high = 0.0, 1.0
    at = lambda share: (x + share * (point - x)).clamp(0, 1)  # noqa: E731
    if (at(1.0) - x).norm() <= eps:
        return at(1.0)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if (at(middle) - x).norm() <= eps else (low, middle)
    return at(low)


def looks(steps: int) -> set[int]:
    """w_j = ceil(p_j·steps): p_0 = 0, p_1 = 0.22, p_(j+1) = p_j + max(p_j - p_(j-1) - 0.03, 0.06), in hundredths."""
    p = [0, 22]
    while p[-1] < 100:
        p.append(p[-1] + max(p[-1] - p[-2] - 3, 6))
    return {-(-each * steps // 100) for each in p[1:] if each <= 100}


def climb(f, x: Tensor, start: Tensor, eps: float, norm: float, steps: int, rho: float = 0.75) -> Tensor:
    """x [n] and a start in its ball -> the iterate with the largest f; f: points [n] -> scalar."""

    def up(at: Tensor) -> Tensor:
        leaf = at.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(f(leaf), leaf)
        return gradient.sign() if norm != 2 else gradient / gradient.norm()

    value = lambda at: float(f(at).detach())  # noqa: E731
    when = looks(steps)
    step, alpha = 2 * eps, 0.75
    before, at = start, nearest(x, start + step * up(start), eps, norm)
    path = [value(start), value(at)]
    best = max((start, at), key=value)
    last, last_step, last_best, rose = 0, step, path[0], int(path[1] > path[0])
    for k in range(1, steps + 1):
        if k in when:
            few = rose < rho * (k - last)
            stuck = step == last_step and last_best == value(best) and last > 0
            last_step, last_best, last, rose = step, value(best), k, 0
            if few or stuck:
                step, at = step / 2, best
        if k == steps:
            break
        ahead = nearest(x, at + step * up(at), eps, norm)
        following = nearest(x, at + alpha * (ahead - at) + (1 - alpha) * (at - before), eps, norm)
        rose += value(following) > value(at)
        before, at = at, following
        best = max((best, at), key=value)
    return best
