"""Throughput of the kernels and of the classifier, beside plain torch, in one run.

    python bench/throughput.py [--dataset auto|mnist|digits28|digits|cifar10] [--device cpu|cuda] [--images 1000]

Prints tables and writes bench/results/throughput-<device>.json. Every comparison is made in turns within the
run. Peers: (a) the loop of existing implementations, one image at a time, uniform noise added in float32 and
clamped; (b) the best plain torch version we know: bf16, channels_last, compiled, chunk found by timing.
"""

import argparse
import copy
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import DATASETS, RESULTS, dataset_and_model, header, seconds, slug, synchronise, table, write
from kernels import Limits, sampling, voting
from peers import Loop, M, PlainTorch
from torch import Tensor, nn

from rcfast import RegionClassifier
from rcfast.stopping import unanimous_length

LENGTHS = {"mnist": 0.3, "cifar10": 0.02, "digits": 0.3, "digits28": 0.3}
TURNS = 4  # that the ways take, each with a part of the images
PARTS = ("kernels", "memory", "votes")


def end_to_end(model: nn.Module, x: Tensor, y: Tensor, r: float, skip_loop: bool) -> dict[str, Any]:
    """All images through each way, block by block in turns; labels compared with the loop's and the truth."""
    device = x.device
    # bf16 pays where there are units for it; the copy and its compiled form are shared by (b) and ours.
    reduced = copy.deepcopy(model).to(torch.bfloat16).to(memory_format=torch.channels_last).eval()
    shared: dict[str, Any] = {"m": M, "dtype": torch.bfloat16}
    if device.type == "cpu":
        compiled = torch.compile(reduced.requires_grad_(False), options={"freezing": True})
        plain = PlainTorch(reduced, compiled, r, x[:1])
        ours = compiled if plain.name == "compiled" else reduced
        # The chunk that (b) found best. A compiled model sees full passes only, and the sequential rule's last
        # rounds are few points: ten unanimous votes at a time waste less of them.
        shared["chunk"] = plain.rows
        few = {**shared, "chunk": 10 * unanimous_length(model(x[:1]).shape[1], 1e-3)}
    else:  # a GPU is full at sizes of its own, which the classifier finds; compiling would take the run's time
        plain, ours, few = PlainTorch(reduced, None, r, x[:32]), reduced, shared
    regions = {
        "rcfast fixed m": RegionClassifier(ours, r, stop=None, **shared),
        "rcfast fixed m, clamp": RegionClassifier(ours, r, stop=None, clip="clamp", **shared),
        "rcfast exact": RegionClassifier(ours, r, stop="exact", **shared),
        "rcfast sequential": RegionClassifier(ours, r, stop="sequential", **few),
    }
    ways: dict[str, Callable[[Tensor], Tensor]] = {"loop": Loop(model, r), "plain torch": plain}
    if skip_loop:
        del ways["loop"]
    ways |= {name: region.predict for name, region in regions.items()}
    for call in ways.values():  # compilation, and the search for the chunk
        for warm in (x[:2], x[:20], *([x] if device.type == "cuda" else [])):
            call(warm)
    took: dict[str, float] = dict.fromkeys(ways, 0.0)
    labels: dict[str, list[Tensor]] = {name: [] for name in ways}
    for part in x.chunk(TURNS):
        for name, call in ways.items():
            # The vote with a stopping rule takes all images at once, every time: examples that are undecided
            # share passes. The others do the same work for each image, a part at a time.
            whole = name == "rcfast sequential"
            synchronise(device)
            begin = time.perf_counter()
            found = call(x if whole else part)
            synchronise(device)
            took[name] += (time.perf_counter() - begin) / (TURNS if whole else 1)
            labels[name] = [found] if whole else [*labels[name], found]
        print(f"  {len(torch.cat(labels['plain torch']))} of {len(x)} images", file=sys.stderr, flush=True)
    some = x[:100]
    drawn = {name: float(region.vote(some).samples.float().mean()) for name, region in regions.items()}
    drawn["rcfast sequential"] = float(regions["rcfast sequential"].vote(x).samples.float().mean())
    base = torch.cat(labels["plain torch" if skip_loop else "loop"])
    rows = []
    for name in ways:
        mine = torch.cat(labels[name])
        rows.append(
            {
                "way": name,
                "images": len(x),
                "seconds": took[name],
                "examples_per_s": len(x) / took[name],
                "samples_per_s": len(x) * drawn.get(name, M) / took[name],
                "mean_samples": drawn.get(name, M),
                "speedup_over_loop": took["loop"] / took[name] if not skip_loop else None,
                "speedup_over_plain_torch": took["plain torch"] / took[name],
                "equal_to_loop": float((mine == base).double().mean()),
                "equal_to_fixed_m": float((mine == torch.cat(labels["rcfast fixed m"])).double().mean()),
                "accuracy": float((mine == y).double().mean()),
            }
        )
    return {
        "one_image_ms": one_image(ours, x[:20], r, few) if device.type == "cuda" else None,
        "chunk": {name: found_chunk(region) for name, region in regions.items()},
        "r": r,
        "m": M,
        "dtype": "bfloat16",
        "plain_torch": f"{plain.name}, chunk {plain.rows}",
        "ways": rows,
    }


def found_chunk(region: RegionClassifier) -> int:
    (runner,) = region._engine._runners.values()
    return runner.chunk.rows


def one_image(model: nn.Module, x: Tensor, r: float, options: dict[str, Any]) -> dict[str, float]:
    """Milliseconds of a vote on one image: what the rounds cost the host, with CUDA graphs and without."""
    took = {}
    for name, graphs in (("cuda graphs", True), ("eager", False)):
        region = RegionClassifier(model, r, cuda_graphs=graphs, **options)
        took[name] = (
            1e3 / len(x) * seconds(lambda region=region: [region.predict(i[None]) for i in x], x.device)
        )
    return took


def memory(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Peak memory beyond the model, one image, in a fresh process each; on the CPU where Linux can tell."""
    if arguments.device == "cpu" and not Path("/proc/self/clear_refs").exists():
        return []
    rows = []
    for way, m in (("rcfast", 1000), ("rcfast", 100_000), ("loop", 1000), ("loop", 10_000)):
        command = [
            sys.executable,
            __file__,
            "--memory-of",
            way,
            "--m",
            str(m),
            "--dataset",
            arguments.dataset,
        ]
        for option in ("device", "root", "model"):
            if getattr(arguments, option):
                command += [f"--{option}", str(getattr(arguments, option))]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        rows.append({"way": way, "m": m, "extra_bytes": json.loads(out.splitlines()[-1])})
    return rows


def resident(field: str) -> int:
    """VmRSS or VmHWM (its peak) of this process, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def memory_of(way: str, m: int, model: nn.Module, image: Tensor, r: float) -> int:
    """Bytes that one vote needs at its peak beyond the loaded model, with one forward pass behind it."""
    with torch.inference_mode():
        model(image)
    cuda = image.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = resident("VmRSS")
    if way == "loop":
        Loop(model, r, m)(image)
    else:
        RegionClassifier(model, r, m=m, stop=None, dtype=torch.bfloat16).predict(image)
    return (torch.cuda.max_memory_allocated() if cuda else resident("VmHWM")) - before


def bars(results: dict[str, Any]) -> list[list[str]]:
    """The bars of two CPU cores with AVX-512 and bf16 units, on MNIST."""
    ways = {row["way"]: row for row in results["end_to_end"]["ways"]}
    sample = {(tuple(row["shape"]), row["dtype"]): row["speedup"] for row in results["sampling"]}
    extra_bytes = {(row["way"], row["m"]): row["extra_bytes"] for row in results["memory"]}
    least = min(row["speedup"] for row in results["voting"])
    shape = (1, 1000, 1, 28, 28)
    found = [
        ("sampling bfloat16 against torch.rand", sample[shape, "bfloat16"], 15.0, "times"),
        ("sampling float32 against torch.rand", sample[shape, "float32"], 12.0, "times"),
        ("voting against argmax + bincount, least", least, 1.0, "times"),
    ]
    fixed, sequential = ways["rcfast fixed m"], ways["rcfast sequential"]
    like = ways["rcfast fixed m, clamp"]  # the loop's own distribution: its labels estimate the same shares
    if fixed["speedup_over_loop"]:
        found += [
            ("fixed m against the loop", fixed["speedup_over_loop"], 6.0, "times"),
            ("fixed m, clamp as the loop does", like["speedup_over_loop"], 6.0, "times"),
            ("fixed m, clamp, labels equal to the loop's", 100 * like["equal_to_loop"], 99.9, "%"),
            ("sequential against the loop", sequential["speedup_over_loop"], 300.0, "times"),
        ]
    rows = [
        [what, f"{value:.1f} {unit}", f"at least {bar:g} {unit}", "met" if value >= bar else "MISSED"]
        for what, value, bar, unit in found
    ]
    if fixed["speedup_over_loop"]:
        share = f"{100 * fixed['equal_to_loop']:.1f} %"
        rows.append(
            [
                "fixed m, the paper's region: labels equal to the loop's",
                share,
                "none: another distribution",
                "",
            ]
        )
    if ("rcfast", 100_000) in extra_bytes:
        extra = extra_bytes["rcfast", 100_000]
        verdict = "met" if extra < 200e6 else "MISSED"
        rows.append(["extra memory at m = 100,000", f"{extra / 1e6:.0f} MB", "under 200 MB", verdict])
    return rows


def show(results: dict[str, Any]) -> None:
    kernels = [
        [row["op"], "x".join(map(str, row["shape"])), row["dtype"], row.get("layout", ""),
         f"{row['bytes_per_s'] / 1e9:.1f}",
         f"{row.get('coordinates_per_s', row.get('rows_per_s')) / 1e9:.3f}",
         f"{100 * row.get('share_of_write_limit', row.get('share_of_copy_limit')):.0f}%", f"{row['speedup']:.1f}"]
        for row in results.get("sampling", []) + results.get("voting", [])
    ]  # fmt: skip
    limit = ", ".join(f"{name} {value / 1e9:.1f}" for name, value in results.get("limits", {}).items())
    print(f"\nlimits, GB/s: {limit}\n")
    print(
        table(
            "Kernels",
            [
                "op",
                "shape",
                "dtype",
                "layout",
                "GB/s",
                "1e9 coordinates or rows/s",
                "of limit",
                "times plain torch",
            ],
            kernels,
        )
    )
    if "end_to_end" in results:
        show_votes(results["end_to_end"], results["dataset"])
    extra = [
        [row["way"], f"{row['m']}", f"{row['extra_bytes'] / 1e6:.0f}"] for row in results.get("memory", [])
    ]
    print(table("Peak extra memory, one image", ["way", "m", "MB"], extra))
    if results["bars"]:
        print(table("Bars", ["what", "measured", "bar", ""], results["bars"]))


def show_votes(whole: dict[str, Any], dataset: str) -> None:
    rows = [
        [row["way"], f"{row['examples_per_s']:.2f}", f"{row['samples_per_s']:.0f}", f"{row['mean_samples']:.0f}",
         f"{row['speedup_over_loop']:.1f}" if row["speedup_over_loop"] else "-",
         f"{row['speedup_over_plain_torch']:.1f}",
         f"{100 * row['equal_to_loop']:.1f}%", f"{100 * row['accuracy']:.1f}%"]
        for row in whole["ways"]
    ]  # fmt: skip
    title = f"End to end: {dataset}, m = {whole['m']}, r = {whole['r']}, plain torch {whole['plain_torch']}"
    columns = ["way", "examples/s", "samples/s", "samples each", "times loop", "times plain"]
    print(table(title, [*columns, "labels as loop", "accuracy"], rows))
    if whole.get("one_image_ms"):
        print("one image, ms:", ", ".join(f"{k} {v:.2f}" for k, v in whole["one_image_ms"].items()), "\n")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", default="auto", help=DATASETS)
    add("--root", type=Path, help="folder of the data sets (default: RCFAST_DATA)")
    add("--model", type=Path, help="checkpoint of rcfast.training (default: trained once, kept in the cache)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--images", type=int, default=1000, help="test images of the end-to-end part (default: %(default)s)")
    add("--skip-loop", action="store_true", help="leave out the slow loop")
    add(
        "--parts",
        default=",".join(PARTS),
        help="measure only these anew, keep the file's others (%(default)s)",
    )
    add("--out", type=Path, help="result file (default: bench/results/throughput-<device>.json)")
    add("--memory-of", help=argparse.SUPPRESS)
    add("--m", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    dataset, model, name = dataset_and_model(arguments.dataset, arguments.root, arguments.model, device)
    r = LENGTHS.get(name, 0.1)
    x, y = dataset.test.x[: arguments.images].to(device), dataset.test.y[: arguments.images].to(device)
    if arguments.memory_of:
        print(memory_of(arguments.memory_of, arguments.m, model, x[:1], r))
        return 0
    path = arguments.out or RESULTS / f"throughput-{slug(device)}.json"
    parts = arguments.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--parts must be among {', '.join(PARTS)}, got {sorted(unknown)[0]!r}")
    own = {**header(device), "dataset": name}
    print(f"{own['device']}, {name}, commit {own['commit']}", flush=True)
    results: dict[str, Any] = own
    if set(parts) != set(PARTS) and path.is_file():
        results = json.loads(path.read_text())
        if (results["device"], results["dataset"]) != (own["device"], name):
            parser.error(f"{path.name} is of {results['device']}, {results['dataset']}")
    measured = results.setdefault("measured", {})
    measured.update({part: {k: own[k] for k in ("commit", "command", "date")} for part in parts})
    if "kernels" in parts:
        limits = Limits(device)
        results["sampling"] = sampling(device, limits)
        results["voting"] = voting(device, limits)
        results["limits"] = limits.found
    if "memory" in parts:
        results["memory"] = memory(arguments)
    if "votes" in parts:
        results["end_to_end"] = end_to_end(model, x, y, r, arguments.skip_loop)
    complete = {"sampling", "memory", "end_to_end"} <= results.keys()
    results["bars"] = bars(results) if device.type == "cpu" and complete else []
    show(results)
    write(path, results)
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
