"""OptMargin as published (He, Li and Song 2018), one example at a time, in the plainest way."""

import torch


def optmargin(model, x, label, moves, *, iterations=1000, searches=4, c0=0.2, rate=1e-2):
    """x [1,...], label int, moves [k,...] with a zero among them -> the least noisy adversarial example, or None."""
    w0 = torch.atanh((x - 0.5) / 0.500005)
    c, lower, upper = c0, 0.0, 1e10
    best, best_l2 = None, float("inf")
    for _ in range(searches):
        change = torch.zeros_like(x, requires_grad=True)
        adam = torch.optim.Adam([change], lr=rate)
        found, before = False, float("inf")
        for iteration in range(iterations):
            moved = torch.tanh(w0 + change) / 2 + 0.5
            logits = model(moved + moves)
            real = logits[:, label]
            other = torch.cat([logits[:, :label], logits[:, label + 1 :]], 1).amax(1)
            l2 = (moved - (torch.tanh(w0) / 2 + 0.5)).square().sum()
            loss = l2 + c * (real - other).clamp(min=0).sum()
            if bool((other > real).all()):
                found = True
                if l2.item() < best_l2:
                    best, best_l2 = moved.detach().clone(), l2.item()
            adam.zero_grad()
            loss.backward()
            adam.step()
            if iteration % (iterations // 10) == 0:
                if loss.item() > before * 0.9999:
                    break
                before = loss.item()
        if found:
            upper = min(upper, c)
        else:
            lower = max(lower, c)
        c = (lower + upper) / 2 if upper < 1e9 else c * 10
    return best
