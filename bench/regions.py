"""Throughput of the regions beside plain torch, in one run.

    python bench/regions.py [--device cpu|cuda] [--samples 1000]

Prints a table and writes bench/results/regions-<device>.json. The peers draw normal numbers with torch.randn, or
exponentials with torch.empty().exponential_(), and scale them: the fastest of two forms, one that allocates what it
needs as people write it, and one that works in place on buffers made beforehand. Every comparison is made in turns.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, header, paired, slug, table, write
from torch import Tensor

from rcfast import Cube, Gaussian, L1Ball, L2Ball, Laplace, Sphere
from rcfast.regions import Region

REGIONS: list[Region] = [Gaussian(0.3), Laplace(0.3), L2Ball(2.0), Sphere(2.0), L1Ball(30.0), Cube(0.3)]
BARS = {"Gaussian": 5.0, "L2Ball": 4.0, "Sphere": 4.0, "L1Ball": 4.0}
SHAPES = ((1, 28, 28), (3, 32, 32))
DTYPES = (torch.float32, torch.bfloat16)


def plain(region: Region, x: Tensor, out: Tensor, buffer: Tensor | None) -> Tensor:
    """The same distribution in plain torch, [1, s, n]; in place where there is a ``buffer``."""
    name, size = type(region).__name__, float(region.size)
    exponential = name in ("Laplace", "L1Ball")
    if name == "Cube":
        low, high = (x - size).clamp(0, 1), (x + size).clamp(0, 1)
        noise = torch.rand_like(out, dtype=torch.float32) if buffer is None else buffer.uniform_()
        points = low + (high - low) * noise if buffer is None else noise.mul_(high - low).add_(low)
        return points.to(out.dtype) if buffer is None else out.copy_(points)
    if buffer is not None:
        noise = buffer.exponential_() if exponential else buffer.normal_()
    else:
        noise = (
            torch.empty(out.shape, device=x.device).exponential_()
            if exponential
            else torch.randn(out.shape, device=x.device)
        )
    if exponential:
        sign = torch.randint(0, 2, out.shape, device=x.device, dtype=torch.int8) * 2 - 1
        noise = noise * sign if buffer is None else noise.mul_(sign)
    if name in ("Gaussian", "Laplace"):
        scale: Any = size
    else:
        norm = noise.abs().sum(-1, keepdim=True) if name == "L1Ball" else noise.norm(dim=-1, keepdim=True)
        scale = size / norm
        if name != "Sphere":
            scale = scale * torch.rand_like(norm) ** (1 / out.shape[-1])
    if buffer is None:
        return (x + scale * noise).to(out.dtype)
    return out.copy_(noise.mul_(scale).add_(x))


def measured(
    region: Region, shape: tuple[int, ...], dtype: torch.dtype, samples: int, device: torch.device
) -> dict:
    """Seconds of one filling of [1, samples, *shape], ours and plain torch's."""
    x = torch.rand(1, *shape, device=device)
    flat, ids = x.view(1, 1, -1), torch.zeros(1, dtype=torch.int64, device=device)
    out = torch.empty(1, samples, *shape, dtype=dtype, device=device)
    rows = out.view(1, samples, -1)
    buffer = torch.empty(rows.shape, device=device)
    calls: dict[str, Callable[[], Any]] = {
        "ours": lambda: region.fill(out, x, seed=1, example_ids=ids, first_sample=0),
        "plain": lambda: plain(region, flat, rows, None),
        "in place": lambda: plain(region, flat, rows, buffer),
    }
    took = paired(calls, device)
    best = min(took["plain"], took["in place"])
    return {
        "region": type(region).__name__,
        "shape": [samples, *shape],
        "dtype": str(dtype).removeprefix("torch."),
        "seconds": took["ours"],
        "plain_seconds": took["plain"],
        "in_place_seconds": took["in place"],
        "coordinates_per_s": out.numel() / took["ours"],
        "speedup": best / took["ours"],
        "bar": BARS.get(type(region).__name__),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--out", type=Path, help="result file (default: bench/results/regions-<device>.json)")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    results: dict[str, Any] = {**header(device), "sampling": []}
    print(f"{results['device']}, commit {results['commit']}", flush=True)
    for region in REGIONS:
        for shape in SHAPES:
            for dtype in DTYPES:
                results["sampling"].append(measured(region, shape, dtype, arguments.samples, device))
    rows = [
        [row["region"], "x".join(map(str, row["shape"])), row["dtype"], f"{row['coordinates_per_s'] / 1e9:.2f}",
         f"{row['speedup']:.1f}", f"{row['bar']:g}" if row["bar"] else "-",
         "" if not row["bar"] else "met" if row["speedup"] >= row["bar"] else "MISSED"]
        for row in results["sampling"]
    ]  # fmt: skip
    columns = ["region", "points", "dtype", "1e9 coordinates/s", "times torch", "bar", ""]
    print(table("Regions beside the best of two plain torch forms", columns, rows))
    path = arguments.out or RESULTS / f"regions-{slug(device)}.json"
    write(path, results)
    print(f"written to {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
