"""A synthetic Results document with every kind of row and its image grids, made without a model."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from rcfast.eval import paper
from rcfast.eval.outputs import NAMES
from rcfast.eval.results import DEFENCES, Results
from rcfast.eval.statistics import mcnemar, tango, wilson

NASTY = r"<b>x</b> & $a_1$ | `v2` \ ~^{50%} #[y](z) *q*"  # a user's defence may be called this
TARGETED = {
    "T-JSMA": "L0",
    "T-CW-L0": "L0",
    "T-FGSM": "Linf",
    "T-IGSM": "Linf",
    "T-CW-Linf": "Linf",
    "T-CW-L2": "L2",
}
UNTARGETED = {"U" + name[1:]: norm for name, norm in TARGETED.items()} | {"DeepFool": "L2"}
COMBINED = {f"{kind}-CA-{norm}": norm for kind in "TU" for norm in ("L0", "Linf", "L2")}


def make(
    folder: Path | None = None,
    *,
    dataset: str = "mnist",
    num_classes: int = 10,
    shape: tuple[int, ...] = (1, 28, 28),
    user_defences: tuple[str, ...] = (),
    seeds: int = 3,
    examples: int = 100,
) -> Results:
    """Results that lie near the paper's MNIST cells; with `folder`, the image grids are written there."""
    rng = np.random.default_rng(0)
    names = (*DEFENCES, *user_defences)
    n_targeted = examples * (num_classes - 1)

    def undefended(attack: str) -> float:
        printed = paper.cell("mnist", attack, "point")
        return printed.success.value if printed else 1.0

    def row(
        group: str, attack: str, norm: str, defence: str, rate: float, noise: float, **more: Any
    ) -> dict[str, Any]:
        n = examples if attack.startswith(("U-", "Deep")) else n_targeted
        success = round(min(max(rate, 0.0), 1.0) * n)
        vote = defence == "region"
        naive = wilson(success, n)
        return {
            "group": group,
            "attack": attack,
            "norm": norm,
            "defence": defence,
            "reading": "unseen",
            "parameter": None,
            "success": success,
            "n": n,
            "examples": examples,
            "interval": [naive.low, naive.high],
            "naive_interval": [naive.low, naive.high],
            "design_effect": 2.0 if n > examples else 1.0,
            "already": 0,
            "noise_n": success,
            "noise_examples": min(success, examples),
            "noise_mean": noise if success else None,
            "noise_se": 0.3 * noise / math.sqrt(success) if success > 1 else None,
            "noise_median": noise if success > n / 2 else None,
            "noise_median_interval": [0.9 * noise, 1.2 * noise if success > n / 2 else None],
            "seeds_share": 0.04 if vote else None,
            "versus_undefended": _versus(success / n - undefended(attack), n)
            if n and defence != "point"
            else None,
            "per_seed": [min(n, max(0, success + int(d))) for d in rng.integers(-1, 2, seeds)]
            if vote
            else [],
            **more,
        }

    attacks = []
    for group, table in (("targeted", TARGETED), ("untargeted", UNTARGETED), ("combined", COMBINED)):
        for attack, norm in table.items():
            for defence in names:
                cell = paper.cell("mnist", attack, defence) or paper.cell("mnist", attack, "point")
                assert cell is not None
                rate = cell.success.value + float(rng.normal(0, 0.01))
                noise = cell.noise.value * float(rng.uniform(0.9, 1.1))
                attacks.append(row(group, attack, norm, defence, rate, noise))
                attacks.append({**attacks[-1], "reading": "defence"})
                second = rate if defence != "region" or group == "targeted" else 0.4 * rate
                attacks.append(row(group, attack, norm, defence, second, noise, reading="model"))
    for attack, middle in (("T-CW-L2", 10.0), ("U-CW-L2", 6.0)):
        for k in (float(k) for k in range(0, 41, 5)):
            for defence in DEFENCES:
                rate = 1 / (1 + math.exp(-(k - middle) / 2.5)) if defence == "region" else 1.0
                attacks.append(row("confidence", attack, "L2", defence, rate, 2 + 0.07 * k, parameter=k))
    for attack, top in (("T-CW-L0-A", 0.4), ("T-CW-L2-A", 0.64), ("T-CW-Linf-A", 0.5)):
        for alpha in np.arange(0, 2.01, 0.25).tolist():
            rate = top * math.exp(-((alpha - 1.0) ** 2))
            norm = attack.split("-")[2]
            attacks.append(row("adapted", attack, norm, "region", rate, 2 * (1 + alpha), parameter=alpha))

    radii = [round(0.01 * i, 2) for i in range(41)]
    curve = [0.992 + 0.0006 * min(1, r / 0.1) - 0.2 * max(0.0, r - 0.3) ** 2 for r in radii]
    results: dict[str, Any] = {
        "config": {
            "preset": "cpu",
            "vote": {"m": 1000, "dtype": "float32", "seeds": list(range(seeds))},
            "attacks": {"budget": "fast"},
            "certify": {"n": 100_000, "alpha": 0.001},
            "length": {"tolerance": 0.001},
        },
        "dataset": {
            "name": dataset,
            "shape": list(shape),
            "num_classes": num_classes,
            "sizes": {"train": 55000, "validation": 5000, "test": 10000},
        },
        "environment": {
            "python": "3.11",
            "torch": "2.11",
            "device": "cpu",
            "processor": "a test's",
            "threads": 2,
            "auto_precision": {"dtype": "float32", "why": "the processor has none of them"},
        },
        "outputs": list(NAMES),
        "defences": list(names),
        "direct": {
            name: ["T-RegionCW on region" if name == "region" else "T-CW-L2 on " + name] for name in names
        },
        "vote_attacks": [
            *(
                _on_vote(kind, attack, rate, noise, n_targeted, examples)
                for kind, attack, rate, noise in (
                    ("transfer", "T-CA-L2", 0.95, 2.7),
                    ("adaptive", "T-RegionCW", 0.99, 2.1),
                    ("best", "T-CA-L2-V", 0.99, 2.1),
                    ("random", "T-RegionCW", 0.01, 2.0),
                    ("network", "T-RegionCW", 1.0, 1.7),
                )
                if n_targeted
            )
        ],
        "worst": [_worst(name, n_targeted // max(num_classes - 1, 1)) for name in names],
        "curves": [
            {
                "defence": name,
                "attack": "U-CW-L2",
                "norm": "L2",
                "at": [0.0, 1.0, 2.5],
                "rate": [0.0, 0.3, 1.0],
            }
            for name in names
        ],
        "optimality": [
            {
                "network": name,
                "attack": "U" + attack[1:],
                "norm": norm,
                "n": examples,
                "success": examples,
                "optimality": 0.9 if examples else None,
                "within_budget": 0.5 if examples else None,
                "budget": 2000,
                "forward": 4321.0,
                "backward": 3210.0,
            }
            for attack, norm in TARGETED.items()
            for name in names
            if name != "region"
        ],
        "warnings": ["protocol.examples is 20: the intervals are wide"],
        "accuracy": [
            {
                "defence": name,
                "correct": correct,
                "n": 10000,
                "per_seed": [correct, correct + 2, correct - 1][:seeds] if name == "region" else [],
                "versus_undefended": None if name == "point" else _accuracy_versus(correct - 9941),
            }
            for name, correct in zip(
                names, (9941, 9925, 9918, 9942, *[9900] * len(user_defences)), strict=True
            )
        ],
        "attacks": attacks,
        "length": {
            "r": 0.3,
            "radii": radii,
            "accuracy": [round(a * 5000) / 5000 for a in curve],
            "point_accuracy": 0.992,
            "n": 5000,
            "learnt": True,
        },
        "histograms": {
            "true_label": 0,
            "m": 10000,
            "r": 0.3,
            "benign": [10000] + [0] * (num_classes - 1),
            "attacks": {
                name: {
                    "targets": list(range(1, num_classes)),
                    "counts": [
                        np.bincount(
                            rng.choice([0, t, 2], 10000, p=[0.7, 0.2, 0.1]), minlength=num_classes
                        ).tolist()
                        for t in range(1, num_classes)
                    ],
                }
                for name in ("T-CW-L2", "T-CW-L0", "T-CW-Linf")
            },
        },
        "checks": [
            {
                "check": name,
                "about": about,
                "verdict": verdict,
                "measured": measured,
                "why": "An attack that stands still says nothing.",
                "advice": "Attack a differentiable stand-in.",
                "numbers": {"share": 0.5},
            }
            for name, about, verdict, measured in (
                ("gradients", "Distillation", "fail", "93 of 100 benign examples have a gradient of zero"),
                ("gradients", "Point-based", "pass", "0 of 100 benign examples have a gradient of zero"),
                (
                    "gradients",
                    "T-FGSM on Point-based",
                    "pass",
                    "0.0% of 100 gradients are zero or not finite",
                ),
                ("attacked itself", "Region-based", "fail", "transferred examples only"),
                (
                    "white-box beats black-box",
                    "Region-based",
                    "not applicable",
                    "no black-box attack was run",
                ),
            )
        ],
        "certified": [
            {
                "region": f"Gaussian(sigma={sigma}, clip=None)",
                "spec": f"gaussian:{sigma}",
                "noisy": noisy,
                "norm": "L2",
                "n": 500,
                "abstained": 5,
                "acr": sigma,
                "median": {"L1": sigma, "L2": sigma, "Linf": sigma / 28},
                "samples": 4000.0,
                "table_radii": [0.25, 0.5],
                "at": [0.0, 0.2, 0.6],
                "correct": [490, 400, 20],
                "at_table": [390, 100],
                "checked": 1800,
            }
            for sigma in (0.25, 0.5)
            for noisy in (False, True)
        ],
        "grids": {},
    }
    if folder is not None:
        for name, attack, parameter in (
            ("figure1", "T-CW-L2", 0.0),
            ("figure5", "T-CW-L2", 20.0),
            ("figure9", "T-CW-L2-A", 1.0),
            ("vote_images", "T-RegionCW", None),
            ("vote_images_linf", "T-RegionCW-Linf", None),
            ("vote_images_l0", "T-RegionCW-L0", None),
        ):
            _grid(folder / f"grid-{name[6:]}.npz", min(num_classes, 10), shape, full=name == "figure1")
            results["grids"][name] = {
                "file": f"grid-{name[6:]}.npz",
                "attack": attack,
                "parameter": parameter,
                "labels": list(range(min(num_classes, 10))),
                "judge": "point" if name == "figure1" else "region",
                "all_tried": True,
            }
    return results  # type: ignore[return-value]


def _worst(name: str, n: int) -> dict[str, Any]:
    """A worst case in which the vote needs half as much noise again as the others."""
    at = [0.0, *(0.5 * (i + 1) * (1.5 if name == "region" else 1.0) for i in range(8))]
    rate = [0.01, *(min(1.0, 0.14 * (i + 1)) for i in range(8))]
    curve = {
        "at": at,
        "rate": rate,
        "low": [0.8 * value for value in rate],
        "high": [min(1.0, 1.2 * value) for value in rate],
        "known": [min(1.0, value + 0.05) for value in rate],
    }
    return {
        "defence": name,
        "n": n,
        "rate": 1.0,
        "interval": [0.96, 1.0],
        "known_rate": 1.0,
        "already": 0.01,
        "random": name == "region",
        "attacks": 42 if name == "region" else 19,
        "on_itself": ["T-RegionCW on region"] if name == "region" else [f"T-CW-L2 on {name}"] * 19,
        "curves": dict.fromkeys(("L0", "L2", "Linf"), curve),
    }


def _versus(difference: float, n: int) -> dict[str, Any]:
    """A paired comparison of about the right size, without images."""
    difference = max(-1.0, min(1.0, difference))
    half = 1.5 / math.sqrt(n)
    return {
        "difference": difference,
        "interval": [max(-1.0, difference - half), min(1.0, difference + half)],
        "p": 1e-6 if abs(difference) > 2 * half else 0.5,
        "only_here": round(max(0.0, difference) * n),
        "only_undefended": round(max(0.0, -difference) * n),
    }


def _accuracy_versus(more: int) -> dict[str, Any]:
    """Twenty images that only one of the two labels correctly, beside those that make the difference."""
    gained, lost = 10 + max(0, more), 10 + max(0, -more)
    interval = tango(gained, lost, 10_000)
    return {
        "difference": more / 10_000,
        "interval": [interval.low, interval.high],
        "p": mcnemar(gained, lost),
        "only_here": gained,
        "only_undefended": lost,
    }


def _on_vote(kind: str, attack: str, rate: float, noise: float, n: int, examples: int) -> dict[str, Any]:
    """A row about attacks on the vote."""
    voted = kind not in ("random", "network")
    at = [0.0, 0.5 * noise, noise, 2 * noise]
    shares = [0.0, 0.3 * rate, 0.7 * rate, rate]
    curve = {
        "at": at,
        "rate": shares,
        "low": [0.9 * s for s in shares],
        "high": [min(1, 1.1 * s) for s in shares],
    }
    return {
        "kind": kind,
        "attack": attack,
        "norm": "L2",
        "defence": "point" if kind == "network" else "region",
        "n": n,
        "examples": examples,
        "rate": rate,
        "interval": [0.95 * rate, min(1.0, 1.02 * rate)],
        "per_seed": [round(rate * n)] * 3 if voted else [],
        "rounded": 0.97 * rate if voted else None,
        "own_seed": 1.0 if voted else None,
        "noise_mean": noise,
        "noise_se": 0.1,
        "noise_n": round(rate * n),
        "ratio": 1.22 if kind != "random" else None,
        "share": 0.56 if voted else None,
        "share_low": 0.51 if voted else None,
        "queries": 3000.0 if kind == "adaptive" else None,
        "curve": None if kind == "network" else curve,
    }


def run() -> dict[str, Any]:
    """What only the run itself knows: the third argument of report.write."""
    return {
        "command": "python -m rcfast.eval --preset cpu --dataset mnist",
        "started": "2025-01-01T00:00:00+00:00",
        "seconds": 1234.5,
        "version": "0.1.0",
        "stages": [
            {"name": "train", "seconds": 100.0, "reused": False},
            {"name": "attack", "seconds": 1000.25, "reused": False},
            {"name": "vote", "seconds": 134.25, "reused": True},
        ],
    }


def _grid(path: Path, count: int, shape: tuple[int, ...], *, full: bool) -> None:
    rng = np.random.default_rng(1)
    axis = np.linspace(-1, 1, shape[-1])
    distance = np.hypot(*np.meshgrid(axis, np.linspace(-1, 1, shape[-2]))) if len(shape) == 3 else abs(axis)
    images = np.zeros((count, count, *shape), np.float32)
    for i in range(count):
        ring = np.exp(-((distance - i / count) ** 2) / 0.02)
        for j in range(count):
            noise = 0 if i == j else rng.normal(0, 0.12, shape)
            images[i, j] = np.clip(np.broadcast_to(ring, shape) + noise, 0, 1)
    shown = (
        np.ones((count, count), bool)
        if full
        else (rng.random((count, count)) < 0.8) | np.eye(count, dtype=bool)
    )
    np.savez_compressed(path, images=images, shown=shown, tried=np.ones_like(shown))
