"""Throughput of the kernels and of the classifier, beside plain torch, in one run.

    python bench/throughput.py [--dataset auto|mnist|digits28|digits|cifar10] [--device cpu|cuda] [--images 1000]

Prints tables and writes bench/results/throughput-<device>.json. Every comparison is made in turns within the
run. Peers: (a) the loop of existing implementations, one image at a time, uniform noise added in float32 and
clamped; (b) the best plain torch version we know: bf16, channels_last, compiled, chunk found by timing.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import common
import torch
from common import DATASETS, RESULTS, dataset_and_model, header, slug, table, write
from kernels import Limits, sampling, voting
from peers import Loop
from torch import Tensor, nn
from votes import end_to_end, show_votes

from rcfast import RegionClassifier

LENGTHS = {"mnist": 0.3, "cifar10": 0.02, "digits": 0.3, "digits28": 0.3}
PARTS = ("kernels", "memory", "votes")


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
        RegionClassifier(model, r, m=m, stop=None, dtype="auto").predict(image)
    return (torch.cuda.max_memory_allocated() if cuda else resident("VmHWM")) - before


# Of two CPU cores on MNIST, by the precision that "auto" takes: with bf16 units, and without (AVX2).
BARS = {
    "bfloat16": {"bfloat16": 19.0, "float32": 12.0, "fixed": 6.0, "exact": 9.0, "sequential": 300.0},
    "float32": {"bfloat16": 15.0, "float32": 15.0, "fixed": 3.0, "exact": 6.0, "sequential": 160.0},
}


def bars(results: dict[str, Any]) -> list[list[str]]:
    """The bars of CPU cores, on MNIST."""
    wanted = BARS[results["end_to_end"]["dtype"]]
    ways = {row["way"]: row for row in results["end_to_end"]["ways"]}
    sample = {(tuple(row["shape"]), row["dtype"]): row["speedup"] for row in results["sampling"]}
    least = min(row["speedup"] for row in results["voting"])
    found = [
        (f"sampling {name} against torch.rand", sample[(1, 1000, 1, 28, 28), name], wanted[name], "times")
        for name in ("bfloat16", "float32")
    ]
    found.append(("voting against argmax + bincount, least", least, 1.0, "times"))
    rows = []
    if ways["rcfast fixed m"]["speedup_over_loop"]:
        found += [
            (f"{what} against the loop", ways[name]["speedup_over_loop"], wanted[bar], "times")
            for what, name, bar in (
                ("fixed m", "rcfast fixed m", "fixed"),
                ("fixed m, clamp as the loop does", "rcfast fixed m, clamp", "fixed"),
                ("exact", "rcfast exact", "exact"),
                ("sequential", "rcfast sequential", "sequential"),
            )
        ]
        # The loop's own distribution: its labels estimate the same shares.
        equal = {
            name: 100 * ways[name]["equal_to_loop"] for name in ("rcfast fixed m", "rcfast fixed m, clamp")
        }
        found.append(
            ("fixed m, clamp, labels equal to the loop's", equal["rcfast fixed m, clamp"], 99.9, "%")
        )
        share = f"{equal['rcfast fixed m']:.1f} %"
        what = "fixed m, the paper's region: labels equal to the loop's"
        rows.append([what, share, "none: another distribution", ""])
    for row in results["memory"]:
        if (row["way"], row["m"]) == ("rcfast", 100_000):
            size = row["extra_bytes"]
            verdict = "met" if size < 200e6 else "MISSED"
            rows.append(["extra memory at m = 100,000", f"{size / 1e6:.0f} MB", "under 200 MB", verdict])
    judged = [
        [what, f"{value:.1f} {unit}", f"at least {bar:g} {unit}", "met" if value >= bar else "MISSED"]
        for what, value, bar, unit in found
    ]
    return [*judged, *rows]


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
    add("--quick", action="store_true", help="time each thing once: a dry run, whose figures say nothing")
    add("--memory-of", help=argparse.SUPPRESS)
    add("--m", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quick:
        common.BLOCKS = 1
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
    told = {k: own[k] for k in ("commit", "command", "date")}
    if "kernels" in parts:
        limits = Limits(device)
        results["sampling"] = sampling(device, limits)
        results["voting"] = voting(device, limits)
        results["limits"], measured["kernels"] = limits.found, told
        write(path, results)  # a part at a time, so that a long run that is stopped keeps what it has
    if "memory" in parts:
        results["memory"], measured["memory"] = memory(arguments), told
        write(path, results)
    if "votes" in parts:
        results["end_to_end"], measured["votes"] = end_to_end(model, x, y, r, arguments.skip_loop), told
    complete = {"sampling", "memory", "end_to_end"} <= results.keys()
    results["bars"] = bars(results) if device.type == "cpu" and complete else []
    show(results)
    write(path, results)
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
