"""Carlini and Wagner's three attacks on one example at a time, as loops in the order of the original authors.

model: callable from [1,...] to logits [1,L]; x [1,...] in [0,1]; target int. Each returns the adversarial example
[1,...], or None where the attack fails. Nothing is shared with rcfast.
"""

import math

import torch


class Adam:
    """Kingma and Ba (2015), algorithm 1 in the efficient order of its section 2, for one tensor."""

    def __init__(self, w, rate):
        self.w, self.rate, self.t = w, rate, 0
        self.m, self.v = torch.zeros_like(w), torch.zeros_like(w)

    def step(self, g):
        self.t += 1
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g * g
        rate = self.rate * math.sqrt(1 - 0.999**self.t) / (1 - 0.9**self.t)
        self.w = self.w - rate * self.m / (self.v.sqrt() + 1e-8)


def other_minus_target(logits, target):
    others = [logits[0, i] for i in range(logits.shape[1]) if i != target]
    return torch.stack(others).max() - logits[0, target]


def gradient_of(function, w):
    """function: w -> (loss, rest...); returns the gradient of the loss in w, and everything detached."""
    with torch.enable_grad():
        leaf = w.detach().requires_grad_(True)
        loss, *rest = function(leaf)
        (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient, loss.item(), [r.detach() for r in rest]


def cw_l2(model, x, target, *, confidence=0.0, iterations=1000, searches=9, c0=1e-3, rate=1e-2):
    lower, upper, c = 0.0, 1e10, c0
    best, best_square = None, math.inf
    for search in range(searches):
        if searches >= 10 and search == searches - 1:
            c = upper
        adam = Adam(torch.atanh((2 * x - 1) * 0.999999), rate)
        before, found = math.inf, False

        def objective(w, c=c):
            adversarial = (torch.tanh(w) + 1) / 2
            logits = model(adversarial)
            square = (adversarial - x).square().sum()
            f = (other_minus_target(logits, target) + confidence).clamp(min=0)
            return square + c * f, square, logits, adversarial

        for step in range(iterations):
            gradient, loss, (square, logits, adversarial) = gradient_of(objective, adam.w)
            if step % max(1, iterations // 10) == 0:
                if loss > 0.9999 * before:
                    break
                before = loss
            adam.step(gradient)
            lowered = logits.clone()
            lowered[0, target] -= confidence
            if lowered.argmax() == target:
                found = True
                if square < best_square:
                    best, best_square = adversarial, square.item()
        if found:
            upper = min(upper, c)
        else:
            lower = max(lower, c)
        c = (lower + upper) / 2 if upper < 1e9 else c * 10
    return best


def cw_linf(model, x, target, *, iterations=1000, rate=5e-3, c0=1e-5, c_max=20.0, tau_min=1 / 256):
    tau, c, solution = 1.0, c0, None
    while tau > tau_min:
        found, c = _attempt_linf(
            model, x, target, x if solution is None else solution, tau, c, c_max, iterations, rate
        )
        if found is None:
            break
        solution = found
        tau = 0.9 * min(tau, (solution - x).abs().max().item())
    return solution


def _attempt_linf(model, x, target, start, tau, c, c_max, iterations, rate):
    while c < c_max:
        adam = Adam(torch.atanh((2 * start - 1) * 0.999999), rate)

        def objective(w, c=c):
            adversarial = (torch.tanh(w) + 1) / 2
            logits = model(adversarial)
            penalty = ((adversarial - x).abs() - tau).clamp(min=0).sum()
            return penalty + c * other_minus_target(logits, target).clamp(min=0), logits, adversarial

        for _ in range(iterations):
            gradient, loss, (logits, adversarial) = gradient_of(objective, adam.w)
            adam.step(gradient)
            if loss < 1e-4 * c and logits.argmax() == target:
                return adversarial, c
        c *= 2
    return None, c


def cw_l0(model, x, target, *, iterations=1000, rate=1e-2, c0=1e-3, c_max=2e6):
    free = torch.ones_like(x, dtype=torch.bool)
    c, solution = c0, None
    while free.any():
        start = x if solution is None else solution
        found, slope, c = _attempt_l0(model, x, target, start, free, c, c_max, iterations, rate)
        if found is None:
            break
        solution = found
        free = free & ~_least_important(solution - x, slope, free)
    if solution is None:
        return None
    undone = torch.where((solution - x).abs() < 1e-4, x, solution)
    return undone if model(undone).argmax() == target else solution


def _attempt_l0(model, x, target, start, free, c, c_max, iterations, rate):
    while c < c_max:
        adam = Adam(torch.atanh((2 * start - 1) * 0.999999), rate)

        def objective(w, c=c):
            adversarial = torch.where(free, (torch.tanh(w) + 1) / 2, x)
            f = (other_minus_target(model(adversarial), target) + 0.01).clamp(min=0)
            return (adversarial - x).square().sum() + c * f, f, adversarial

        for _ in range(iterations):
            gradient, _, (f, adversarial) = gradient_of(objective, adam.w)
            if f < 1e-4:
                slope, _, _ = gradient_of(lambda z: (other_minus_target(model(z), target),), adversarial)
                return adversarial, slope, c
            adam.step(gradient)
        c *= 2
    return None, None, c


def _least_important(delta, slope, free):
    """The pixels [1,...] bool to freeze next; of images [1,C,H,W] all channels at once."""
    channels = delta.shape[1] if delta.dim() == 4 else 1
    delta, slope = delta.reshape(channels, -1), slope.reshape(channels, -1)
    still = free.reshape(channels, -1)[0]
    change = (delta.abs() * slope.abs()).sum(0)
    changed = int((delta.abs() >= 1e-4).any(0).sum())
    frozen, did = torch.zeros_like(still), 0
    for pixel in change.argsort(stable=True).tolist():
        if not still[pixel]:
            continue
        frozen[pixel] = True
        did += 1
        if change[pixel] > 0.01 or did >= 0.3 * math.sqrt(changed):
            break
    return frozen.repeat(channels, 1).reshape(free.shape)
