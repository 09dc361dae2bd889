"""Votes end to end beside the loop and plain torch, in the precision that "auto" takes and in the other one."""

import sys
import time
from typing import Any

import torch
from common import seconds, short, synchronise, table
from peers import Loop, M, PlainTorch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rcfast import RegionClassifier
from rcfast.hardware import automatic_dtype, bfloat16_units
from rcfast.stopping import unanimous_length

DTYPES = (torch.float32, torch.bfloat16)
TURNS = 4  # that the ways take, each with a part of the images
FEWER = 20  # times as many images on a CPU in the precision that "auto" takes as in the other one


def precisions(device: torch.device) -> list[torch.dtype]:
    """What dtype="auto" takes on this device, and the other one."""
    auto = automatic_dtype(device)
    return [auto, *(dtype for dtype in DTYPES if dtype != auto)]


def ways(model: nn.Module, x: Tensor, r: float, skip_loop: bool) -> dict[str, Any]:
    """The ways to vote by name: peers and ours in the precision that "auto" takes, fixed m in the other one too."""
    (auto, other), cuda = precisions(x.device), x.device.type == "cuda"
    found: dict[str, Any] = {} if skip_loop else {"loop": Loop(model, r)}
    for dtype, name in ((auto, ""), (other, f", {short(other)}")):
        plain = found[f"plain torch{name}"] = PlainTorch(model, dtype, r, x[: 32 if cuda else 1])
        # A GPU is full at sizes of its own, which the classifier finds. On a CPU in float32 the module itself, for its
        # convolutions run on our kernel; else the form that (b) found best, with its chunk, as a compiled model sees
        # full passes only.
        own = cuda or dtype == torch.float32
        ours = model if own else plain.model
        shared: dict[str, Any] = {"m": M, "dtype": dtype}
        if not cuda:
            shared["chunk"] = 250 if own else plain.rows
        found[f"rcfast fixed m{name}"] = RegionClassifier(ours, r, stop=None, **shared)
        if dtype != auto:
            continue
        found["rcfast fixed m, clamp"] = RegionClassifier(ours, r, stop=None, clip="clamp", **shared)
        found["rcfast exact"] = RegionClassifier(ours, r, stop="exact", **shared)
        # The sequential rule's last rounds are few points: ten unanimous votes at a time waste less of a full pass.
        few = shared if cuda else {**shared, "chunk": 10 * unanimous_length(model(x[:1]).shape[1], 1e-3)}
        found["rcfast sequential"] = RegionClassifier(ours, r, stop="sequential", **few)
    return found


def run_in_turns(found: dict[str, Any], x: Tensor) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Seconds per image and labels of each way, block by block in turns."""
    device, other = x.device, short(precisions(x.device)[1])
    cuda = device.type == "cuda"
    # Compilation, the search for the chunk, and on a GPU plans for each size of pass.
    for name, way in found.items():
        few = [] if name.endswith(other) else [x[:20]]
        for warm in (x[:2], *([x, *2 * x.chunk(TURNS)] if cuda else few)):
            getattr(way, "predict", way)(warm)
    took = dict.fromkeys(found, 0.0)
    labels: dict[str, list[Tensor]] = {name: [] for name in found}
    for part in x.chunk(TURNS):
        for name, way in found.items():
            # The sequential vote takes all images at once, every time: examples that are undecided share passes. The
            # others do the same work for each image, a part at a time, and in the slower precision a part of that.
            some = x if name == "rcfast sequential" else part
            some = some[: max(2, len(some) // FEWER)] if name.endswith(other) and not cuda else some
            synchronise(device)
            begin = time.perf_counter()
            said = getattr(way, "predict", way)(some)
            synchronise(device)
            took[name] += (time.perf_counter() - begin) / len(some) / TURNS
            labels[name] = [said] if name == "rcfast sequential" else [*labels[name], said]
        print(f"  {len(torch.cat(labels['plain torch']))} of {len(x)} images", file=sys.stderr, flush=True)
    return took, {name: torch.cat(parts) for name, parts in labels.items()}


def end_to_end(model: nn.Module, x: Tensor, y: Tensor, r: float, skip_loop: bool) -> dict[str, Any]:
    """All images through each way; labels compared with the loop's and the truth."""
    auto, why = automatic_dtype(x.device), bfloat16_units(x.device)[1]
    print(f'"auto" is {short(auto)} on {x.device}: {why}', flush=True)
    found = ways(model, x, r, skip_loop)
    took, labels = run_in_turns(found, x)
    base = labels["plain torch" if skip_loop else "loop"]
    rows = []
    for name, way in found.items():
        mine, whole = labels[name], len(labels[name]) == len(x)
        drawn = float(M)
        if isinstance(way, RegionClassifier) and way.stop:
            drawn = float(way.vote(x if way.stop == "sequential" else x[:100]).samples.float().mean())
        rows.append(
            {
                "way": name,
                "dtype": "float32" if name == "loop" else short(way.dtype),
                "images": len(mine),
                "seconds_per_image": took[name],
                "examples_per_s": 1 / took[name],
                "samples_per_s": drawn / took[name],
                "mean_samples": drawn,
                "speedup_over_loop": None if skip_loop else took["loop"] / took[name],
                "speedup_over_plain_torch": took["plain torch"] / took[name],
                "equal_to_loop": float((mine == base).double().mean()) if whole else None,
                "equal_to_fixed_m": float((mine == labels["rcfast fixed m"]).double().mean())
                if whole
                else None,
                "accuracy": float((mine == y).double().mean()) if whole else None,
            }
        )
    plain, regions = found["plain torch"], {n: w for n, w in found.items() if isinstance(w, RegionClassifier)}
    return {
        "one_image_ms": one_image(model, x[:20], r, auto) if x.device.type == "cuda" else None,
        "chunk": {name: found_chunk(region) for name, region in regions.items()},
        "r": r,
        "m": M,
        "dtype": short(auto),
        "why": why,
        "plain_torch": f"{plain.name}, chunk {plain.rows}",
        "peak": peak(model, x, took),
        "ways": rows,
    }


def found_chunk(region: RegionClassifier) -> int:
    (runner,) = region._engine._runners.values()
    return runner.chunk.rows


def one_image(model: nn.Module, x: Tensor, r: float, dtype: torch.dtype) -> dict[str, float]:
    """Milliseconds of a vote on one image: what the rounds cost the host, with CUDA graphs and without."""
    took = {}
    for name, graphs in (("cuda graphs", True), ("eager", False)):
        region = RegionClassifier(model, r, m=M, dtype=dtype, cuda_graphs=graphs)
        took[name] = (
            1e3 / len(x) * seconds(lambda region=region: [region.predict(i[None]) for i in x], x.device)
        )
    return took


def peak(model: nn.Module, x: Tensor, took: dict[str, float]) -> dict[str, float]:
    """Operations per second of a matrix product and of the network, a convolution's counted as if done directly."""
    size = 2048
    a, b = (torch.randn(size, size, device=x.device) for _ in range(2))
    product = 2 * size**3 / seconds(lambda: a @ b, x.device)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(x[:1])
    flops = counter.get_total_flops()
    return {
        "product_flops": product,
        "network_flops_per_point": flops,
        **{f"{name} share": M * flops / took[name] / product for name in ("plain torch", "rcfast fixed m")},
    }


def show_votes(whole: dict[str, Any], dataset: str) -> None:
    rows = [
        [row["way"], row["dtype"], f"{row['examples_per_s']:.2f}", f"{row['samples_per_s']:.0f}",
         f"{row['mean_samples']:.0f}",
         f"{row['speedup_over_loop']:.1f}" if row["speedup_over_loop"] else "-",
         f"{row['speedup_over_plain_torch']:.1f}",
         *("-" if row[key] is None else f"{100 * row[key]:.1f}%" for key in ("equal_to_loop", "accuracy"))]
        for row in whole["ways"]
    ]  # fmt: skip
    title = f"End to end: {dataset}, m = {whole['m']}, r = {whole['r']}, plain torch {whole['plain_torch']}"
    columns = ["way", "dtype", "examples/s", "samples/s", "samples each", "times loop", "times plain"]
    print(table(title, [*columns, "labels as loop", "accuracy"], rows))
    print(f'"auto" is {whole["dtype"]}: {whole["why"]}')
    shares = {name: value for name, value in whole["peak"].items() if name.endswith("share")}
    said = ", ".join(f"{name.removesuffix(' share')} {100 * value:.0f}%" for name, value in shares.items())
    print(f"of a matrix product's {whole['peak']['product_flops'] / 1e9:.0f}e9 operations a second: {said}")
    if whole.get("one_image_ms"):
        print("one image, ms:", ", ".join(f"{k} {v:.2f}" for k, v in whole["one_image_ms"].items()), "\n")
