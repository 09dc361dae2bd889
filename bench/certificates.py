"""Certificates beside the public implementation of Cohen et al. (2019): radii, points and time in one run.

    python bench/certificates.py --peer CORE.py --dataset mnist --root DATA --checkpoint NOISY.safetensors

CORE.py is `code/core.py` of that repository, which is read where it lies and told to draw its noise on the CPU. The
network is trained with the noise (`--train EPOCHS`) unless a checkpoint of it is there. Writes a file in bench/results.
"""

import argparse
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from rcfast import Gaussian, RegionClassifier, certify, data, models, training


def peer_class(path: Path) -> Any:
    """`Smooth` of the public implementation, with its device and a SciPy name of its time exchanged."""
    source = path.read_text().replace("device='cuda'", "device=batch.device")
    source = source.replace(
        "from scipy.stats import norm, binom_test", "from scipy.stats import norm, binomtest"
    )
    source = source.replace(
        "binom_test(count1, count1 + count2, p=0.5)", "binomtest(count1, count1 + count2).pvalue"
    )
    module = types.ModuleType("peer")
    exec(compile(source, "core.py", "exec"), module.__dict__)
    return module.Smooth


def network(dataset: data.Dataset, checkpoint: Path, sigma: float, epochs: int) -> nn.Module:
    if not checkpoint.is_file():
        model = models.for_dataset(dataset)
        training.fit(model, dataset.train, epochs=epochs, noise=Gaussian(sigma), progress=True)
        training.save_model(model, checkpoint, {"noise": f"Gaussian({sigma})", "epochs": epochs})
    return training.load_model(checkpoint)[0].eval()


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    found = call()
    return found, time.perf_counter() - start


def certificates(
    peer: Any, model: nn.Module, x: Tensor, y: Tensor, options: argparse.Namespace
) -> dict[str, Any]:
    """CERTIFY by the peer, by the same number of points, and with an early end."""
    sigma, n, alpha = options.sigma, options.n, options.alpha
    region = Gaussian(sigma)
    smooth = peer(model, len(torch.unique(y)) if options.classes is None else options.classes, sigma)

    def theirs() -> list[tuple[int, float]]:
        return [smooth.certify(image, options.n0, n, alpha, options.batch) for image in x]

    rows: dict[str, Any] = {}
    found, seconds = timed(theirs)
    radii = np.array([radius for _, radius in found])
    rows["peer"] = {"seconds": seconds, "radius": radii.tolist(), "label": [int(label) for label, _ in found],
                    "points": [options.n0 + n] * len(x)}  # fmt: skip
    for name, change in (("ours", {}), ("ours, gain 1%", {"gain": 0.01}), ("ours, gain 5%", {"gain": 0.05})):
        made, seconds = timed(
            lambda change=change: certify(model, x, region=region, n=n, n0=options.n0, alpha=alpha, **change)
        )
        rows[name] = {"seconds": seconds, "radius": made.radius.tolist(), "label": made.label.tolist(),
                      "points": made.samples.tolist()}  # fmt: skip
    rows["difference"] = difference(rows["peer"], rows["ours"], sigma, n)
    for radius in options.radii:
        made, seconds = timed(
            lambda radius=radius: certify(
                model, x, region=region, n=n, n0=options.n0, alpha=alpha, radius=radius
            )
        )
        rows[f"at least {radius:g}?"] = {"seconds": seconds, "yes": (made.radius >= radius).sum().item(),
                                         "peer says yes": int((radii >= radius).sum()),
                                         "points": made.samples.tolist()}  # fmt: skip
    return rows


def difference(peer: dict[str, Any], ours: dict[str, Any], sigma: float, n: int) -> dict[str, Any]:
    """How far the radii of two independent samples of n points lie apart, in standard errors of their difference."""
    both = [
        (a, b)
        for a, b, la, lb in zip(peer["radius"], ours["radius"], peer["label"], ours["label"], strict=True)
        if la == lb and a > 0 and b > 0
    ]
    shares = [stats.norm.cdf(np.array(pair) / sigma) for pair in both]
    z = np.array([(q - p) / np.sqrt(2 * max(p * (1 - p), 1 / n) / n) for p, q in shares])
    return {
        "compared": len(both),
        "mean ratio of radii": float(np.mean([b / a for a, b in both])),
        "root mean square z": float(np.sqrt((z**2).mean())),
        "largest |z|": float(np.abs(z).max()),
    }


def predictions(
    peer: Any, model: nn.Module, x: Tensor, y: Tensor, options: argparse.Namespace
) -> dict[str, Any]:
    """PREDICT at equal alpha: the peer's number of points is fixed beforehand, ours is what each example needs."""
    smooth = peer(model, len(torch.unique(y)) if options.classes is None else options.classes, options.sigma)
    rows: dict[str, Any] = {}
    for m in options.votes:
        said, seconds = timed(
            lambda m=m: [int(smooth.predict(image, m, options.alpha, options.batch)) for image in x]
        )
        rows[f"peer, {m}"] = {"seconds": seconds, "points": float(m), "abstained": said.count(-1),
                              "right": int((torch.tensor(said) == y).sum())}  # fmt: skip
        region = RegionClassifier(model, Gaussian(options.sigma), m=m, alpha=options.alpha)
        votes, seconds = timed(lambda region=region: region.vote(x))
        rows[f"ours, at most {m}"] = {"seconds": seconds, "points": votes.samples.double().mean().item(),
                                      "abstained": int((~votes.decided).sum()),
                                      "right": int((votes.decided & (votes.label == y)).sum())}  # fmt: skip
    return rows


def show(results: dict[str, Any]) -> None:
    rows = []
    for name, row in results["certify"].items():
        if "seconds" in row:
            radius = (
                f"{np.mean(row['radius']):.4f}"
                if "radius" in row
                else f"{row['yes']} yes, {row['peer says yes']}"
            )
            rows.append([name, f"{np.mean(row['points']):,.0f}", radius, f"{row['seconds']:.1f}"])
    columns = ["CERTIFY", "points", "mean radius", "seconds"]
    print(common.table(f"{results['examples']} examples of {results['dataset']}", columns, rows))
    print(results["certify"]["difference"], "\n")
    rows = [
        [name, f"{row['points']:,.1f}", str(row["abstained"]), str(row["right"]), f"{row['seconds']:.2f}"]
        for name, row in results["predict"].items()
    ]
    print(common.table("PREDICT", ["", "points", "abstained", "right", "seconds"], rows))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--train", type=int, default=2, help="epochs, where there is no checkpoint yet")
    parser.add_argument("--sigma", type=float, default=0.25)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--n0", type=int, default=100)
    parser.add_argument("--alpha", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=400, help="the peer's")
    parser.add_argument(
        "--examples", type=int, default=20, help="for CERTIFY; PREDICT takes five times as many"
    )
    parser.add_argument("--radii", type=float, nargs="*", default=[0.25, 0.5])
    parser.add_argument("--votes", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--classes", type=int)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    dataset = data.load(options.dataset, options.root)
    options.classes = options.classes or dataset.num_classes
    model, peer = network(dataset, options.checkpoint, options.sigma, options.train), peer_class(options.peer)
    device = torch.device("cpu")
    x, y = dataset.test.x, dataset.test.y
    few, more = slice(options.examples), slice(5 * options.examples)
    torch.manual_seed(0)  # the peer's noise
    certify(model, x[:2], region=Gaussian(options.sigma), n=200)  # both warm
    peer(model, options.classes, options.sigma).predict(x[0], 100, 0.5, options.batch)
    results = {
        **common.header(device),
        "dataset": dataset.name,
        "accuracy": float(training.evaluate(model, dataset.test)),
        "examples": options.examples,
        "settings": {
            key: getattr(options, key) for key in ("sigma", "n", "n0", "alpha", "batch", "radii", "votes")
        },
        "certify": certificates(peer, model, x[few], y[few], options),
        "predict": predictions(peer, model, x[more], y[more], options),
    }
    common.write(common.RESULTS / f"certificates-{dataset.name}-{common.slug(device)}.json", results)
    show(results)


if __name__ == "__main__":
    main()
