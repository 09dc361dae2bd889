"""Attacks on a vote: noise and success on seeds that they never saw, beside transfer and peers; `attacks.py --vote`.

Each piece (one attack on one image with all its targets, or one budget of APGD) is kept in
bench/results/attacks-vote-<device>.json as soon as it is measured; a run that was interrupted goes on with the next
one, as long as network, images and r are the same. Success is judged for everybody by exact votes under three fresh
seeds and ids. `--peer FOLDER`: a checkout of AutoAttack, for its APGD. `--r`: by default 0.3 for MNIST and the digits
at its size; for others learnt here, on LEARNT validation images in steps of 0.01 with m = 100.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, commit, dataset_and_model, header, slug, table, write
from known_seed import known_seed
from torch import Tensor, nn
from vote_bars import bars
from vote_speed import speed

from rcfast import RegionClassifier, learn_length
from rcfast.attacks import APGD, CWL2, AttackResult, Judgement, OptMargin, RegionCW, external, judge
from rcfast.attacks.base import Attack

Piece = dict[str, Any]
R, LEARNT = 0.3, 500
CONFIDENCES = tuple(range(0, 41, 5))
ALPHAS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
# Of the literature on this very defence, and of smaller ones where the network still resists.
LINF, L2 = (0.1, 0.15, 0.2, 0.22, 0.3, 0.66), (1.5, 2.0, 3.0, 4.0, 8.0)
INF = float("inf")
ON_VOTE = ((INF, 0.66), (2.0, 8.0), (INF, 0.22), (2.0, 4.0))
CIFAR10 = ((INF, 0.1), (2.0, 3.0), (INF, 0.01), (2.0, 0.3))  # on the vote and on the network alike
PUBLISHED_RMS = {"cifar10": 8 / 255}  # of OptMargin's directions; 0.3 for the others


@dataclass
class Task:
    """Images x [N,C,H,W] that the network labels correctly, y [N]; r of the vote."""

    model: nn.Module
    x: Tensor
    y: Tensor
    classes: int
    r: float
    targets: int = 0  # of an image, 0: all

    def rows(self, image: int) -> tuple[Tensor, Tensor]:
        """An image once for each of its targets, and these: the wrong classes, evenly spread where not all."""
        wrong = [t for t in range(self.classes) if t != int(self.y[image])]
        count = self.targets or len(wrong)
        shift = image if count < len(wrong) else 0
        targets = torch.tensor([wrong[(shift + i * len(wrong) // count) % len(wrong)] for i in range(count)])
        return self.x[image].expand(len(targets), *self.x.shape[1:]), targets


def judged(
    vote: RegionClassifier, result: AttackResult, labels: Tensor, *, targeted: bool, seconds: float
) -> Piece:
    said: Judgement = judge(vote, result, labels, targeted=targeted)
    assert said.rounded is not None
    return {
        "fresh": said.success.int().tolist(),
        "rounded": said.rounded.int().tolist(),
        "own": said.own.int().tolist(),
        "share": [round(float(v), 4) for v in said.share],
        "l2": [round(float(v), 5) for v in result.noise.l2],
        "linf": [round(float(v), 5) for v in result.noise.linf],
        "queries": float(result.queries.double().mean()),
        "seconds": seconds,
        "load": os.getloadavg()[0],
        "commit": commit(),
    }


def timed(attack: Attack, model: Any, x: Tensor, labels: Tensor) -> tuple[AttackResult, float]:
    began = time.perf_counter()
    return attack(model, x, labels), time.perf_counter() - began


def on_vote(task: Task, image: int, attack: Attack, *, times: float = 1.0, m: int = 1000) -> Piece:
    x, targets = task.rows(image)
    vote = RegionClassifier(task.model, times * task.r, m=m)
    result, seconds = timed(attack, vote, x, targets)
    return judged(vote, result, targets, targeted=True, seconds=seconds)


@dataclass(frozen=True, kw_only=True)
class Given(Attack):
    """What was found before, as an attack to start from."""

    norm = 2
    targeted = True
    found: AttackResult

    def _run(self, model: Any, x: Tensor, labels: Tensor) -> Tensor:
        raise NotImplementedError

    def _attack(self, *args: Any, **options: Any) -> AttackResult:
        return self.found


def combined(task: Task, image: int) -> Piece:
    """CA-L2: of T-CW-L2 with each k, and of each lengthened by each alpha, the least noisy that the vote takes.

    `plain`: without the lengthening, as the paper's CA-L2. `started`: RegionCW from there.
    """
    x, targets = task.rows(image)
    vote = RegionClassifier(task.model, task.r)
    began = time.perf_counter()
    best = {name: (x.clone(), torch.full((len(x),), INF)) for name in ("plain", "lengthened")}
    for k in CONFIDENCES:
        left = best["plain"][1].isinf()
        if not left.any():
            break
        found = CWL2(confidence=float(k))(task.model, x[left], targets[left])
        for alpha in (0.0, *ALPHAS):
            made = x.clone()
            made[left] = (x[left] + (1 + alpha) * (found.adversarial - x[left])).clamp(0, 1)
            noise = (made - x).flatten(1).norm(dim=1)
            wins = left.clone()
            wins[left] = found.success & (vote.predict(made[left]) == targets[left])
            for name in ("plain", "lengthened") if not alpha else ("lengthened",):
                adversarial, least = best[name]
                take = wins & (noise < least)
                adversarial[take], least[take] = made[take], noise[take]
    seconds = time.perf_counter() - began
    pieces = {
        name: _as_result(x, adversarial, least.isfinite()) for name, (adversarial, least) in best.items()
    }
    found = {name: judged(vote, r, targets, targeted=True, seconds=seconds) for name, r in pieces.items()}
    started, more = timed(RegionCW(start=Given(found=pieces["plain"])), vote, x, targets)
    return {**found, "started": judged(vote, started, targets, targeted=True, seconds=more)}


def _as_result(x: Tensor, adversarial: Tensor, success: Tensor) -> AttackResult:
    from rcfast.attacks import Noise

    queries = torch.zeros(len(x), dtype=torch.int64)
    return AttackResult(adversarial, success, Noise.between(adversarial, x), queries, x)


def label_only(task: Task, image: int) -> Piece:
    """HopSkipJump sees the label of the vote alone, and wants any other one."""
    x, y = task.x[image : image + 1], task.y[image : image + 1]
    vote = RegionClassifier(task.model, task.r)
    attack = external("foolbox:HopSkipJumpAttack", queries=1000, max_gradient_eval_steps=100)
    result, seconds = timed(attack, vote, x, y)
    return judged(vote, result, y, targeted=False, seconds=seconds)


def apgd(task: Task, norm: float, eps: float, loss: str, peer: Path | None) -> Piece:
    """Accuracy that is left of the network: ours, and AutoAttack's where it is there."""
    result, seconds = timed(APGD(eps=eps, norm=norm, loss=loss, steps=100), task.model, task.x, task.y)  # type: ignore[arg-type]
    found: Piece = {"n": len(task.x), "ours": int((~result.success).sum()), "ours_seconds": seconds}
    if peer is not None:
        sys.path.insert(0, str(peer))
        kind = importlib.import_module("autoattack.autopgd_base").APGDAttack
        theirs = kind(
            task.model, n_iter=100, norm="L2" if norm == 2 else "Linf", eps=eps, loss=loss, device="cpu"
        )
        began = time.perf_counter()
        made = theirs.perturb(task.x, task.y)
        found["peer_seconds"] = time.perf_counter() - began
        with torch.no_grad():
            found["peer"] = int((task.model(made).argmax(1) == task.y).sum())
    return {**found, "load": os.getloadavg()[0], "commit": commit()}


def on_vote_within(task: Task, norm: float, eps: float) -> Piece:
    vote = RegionClassifier(task.model, task.r)
    result, seconds = timed(APGD(eps=eps, norm=norm, steps=30, eot=8), vote, task.x, task.y)
    return judged(vote, result, task.y, targeted=False, seconds=seconds)


def all_rows(task: Task) -> Piece:
    x, targets = (torch.cat(parts) for parts in zip(*map(task.rows, range(len(task.x))), strict=True))
    return speed(task.model, x, targets, task.r)


def pieces(task: Task, many: Task, peer: Path | None, name: str) -> dict[str, Callable[[], Piece]]:
    """What is measured of the data set of this name, in the order of what matters."""
    found: dict[str, Callable[[], Piece]] = {}
    images = range(len(task.x))
    for i in images:
        found[f"region_cw {i}"] = partial(on_vote, task, i, RegionCW())
    found[f"speed {torch.get_num_threads()}"] = partial(all_rows, task)
    for i in images:
        found[f"combined {i}"] = partial(combined, task, i)
    budgets = CIFAR10 if name == "cifar10" else (*((INF, eps) for eps in LINF), *((2.0, eps) for eps in L2))
    for norm, eps in budgets:
        for loss in ("ce", "dlr"):
            found[f"apgd L{norm:g} {eps:g} {loss}"] = partial(apgd, many, norm, eps, loss, peer)
    for norm, eps in CIFAR10 if name == "cifar10" else ON_VOTE:
        found[f"eot L{norm:g} {eps:g}"] = partial(on_vote_within, task, norm, eps)
    published = OptMargin(targeted=True, scaled=False, c0=0.2, rms=PUBLISHED_RMS.get(name, 0.3))
    for i in images[:3]:
        found[f"hop_skip_jump {i}"] = partial(label_only, task, i)
        found[f"opt_margin {i}"] = partial(on_vote, task, i, published)
        found[f"opt_margin_near {i}"] = partial(on_vote, task, i, published.replace(rms=task.r / 3**0.5))
        found[f"known_seed {i}"] = partial(known_seed, task.model, *task.rows(i), task.r)
    for i in images[:4]:
        for thirds in (1, 2, 4):
            times = thirds / 3
            found[f"r={times * task.r:g} {i}"] = partial(on_vote, task, i, RegionCW(), times=times)
        for m in (100, 10_000):
            found[f"m={m} {i}"] = partial(on_vote, task, i, RegionCW(), m=m)
    for i in images:  # made to be stored in 8 bits
        found[f"levels=255 {i}"] = partial(on_vote, task, i, RegionCW(levels=255))
    for i in images:
        found[f"seed=1 {i}"] = partial(on_vote, task, i, RegionCW(seed=1))
    return found


def task_of(model: nn.Module, dataset: Any, count: int, seed: int) -> Task:
    order = torch.randperm(len(dataset.test.y), generator=torch.Generator().manual_seed(seed))[
        : 20 * count + 100
    ]
    x, y = dataset.test.x[order], dataset.test.y[order]
    with torch.no_grad():
        right = (model(x).argmax(1) == y).nonzero().flatten()[:count]
    return Task(model, x[right], y[right], dataset.num_classes, R)


def learnt(model: nn.Module, dataset: Any) -> float:
    x, y = dataset.validation.x[:LEARNT], dataset.validation.y[:LEARNT]
    return learn_length(model, x, y, step=0.01, m=100).r


def main(args: argparse.Namespace) -> int:
    torch.set_num_threads(args.threads)
    device = torch.device("cpu")
    dataset, model, name = dataset_and_model(args.dataset, args.root, args.model, device)
    many = task_of(model, dataset, 100, args.seed)
    if args.r is not None or name not in ("mnist", "digits28"):
        many.r = args.r if args.r is not None else learnt(model, dataset)
        print(f"r = {many.r:g}", flush=True)
    task = replace(many, x=many.x[: args.examples], y=many.y[: args.examples], targets=args.targets)
    kind = f"-{name}" if name == "cifar10" else ""
    chosen = f"{args.examples} {many.r}" + (f" {args.targets}" if args.targets else "")
    content = hashlib.sha256(chosen.encode())
    for tensor in (many.x, *model.state_dict().values()):
        content.update(tensor.contiguous().numpy().tobytes())
    path = args.out or RESULTS / f"attacks-vote{kind}-{slug(device)}.json"
    before = json.loads(path.read_text()) if path.is_file() and not args.fresh else {}
    there: dict[str, Piece] = before["pieces"] if before.get("key") == content.hexdigest() else {}
    wanted = [w.strip() for w in args.only.split(",") if w.strip()]
    for key, run in pieces(task, many, args.peer, name).items():
        if key in there or (wanted and key not in wanted and key.rpartition(" ")[0] not in wanted):
            continue
        there[key] = run()
        report = {**header(device), "dataset": name, "r": many.r, "key": content.hexdigest()}
        write(path, {**report, "bars": bars(there, many.r), "pieces": there})
        print(f"{key}: done, load {os.getloadavg()[0]:.1f}", flush=True)
    print(table("Bars", ["what", "measured", "bar", ""], bars(there, many.r)))
    print(f"in {path}")
    return 0
