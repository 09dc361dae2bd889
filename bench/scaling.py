"""Two processes of one thread against one process of two threads, on two cores.

    python bench/scaling.py --root DATA --checkpoint MNIST.safetensors

`vote`: the points of a vote shared by a group, against one process with one thread. `digits`: the default evaluation
from nothing. `attacks`: attacks and votes of the quick preset on MNIST, the network and r given. Every command is the
user's and runs with nothing else on the machine; each is repeated in turns, the least time counts. Writes a file in
bench/results; `--parts` measures some anew and keeps the others.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import torch
import torch.distributed as dist

from rcfast import RegionClassifier, data, training

BARS = {"vote": 0.9, "digits": 0.8, "attacks": 0.7}  # efficiency at least; shares of the time at most
PROCESSES = 2


def voting(options: argparse.Namespace) -> float:
    """Seconds of one vote by this process or, under torchrun, by its group."""
    torch.set_num_threads(1)
    model, _ = training.load_model(options.checkpoint)
    x = data.load("mnist", options.root).test.x[: options.images]
    group = None
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
        group = dist.group.WORLD
    region = RegionClassifier(model.eval(), 0.3, m=1000, stop=None, chunk=options.chunk, group=group)
    region.vote(x[:1])
    if group:
        dist.barrier()
    start = time.perf_counter()
    region.vote(x)
    if group:
        dist.barrier()
        if dist.get_rank():
            sys.exit()
    return time.perf_counter() - start


def vote(options: argparse.Namespace) -> dict[str, float]:
    own = [
        *(__file__, "--measure-vote", "--root", options.root, "--checkpoint", options.checkpoint),
        *("--images", options.images, "--chunk", options.chunk),
    ]
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"]
    alone, together = ["python", *own], ["python", *torchrun, *own]
    return {"one": float(run(alone, threads=1)), "two": float(run(together, threads=1))}


def evaluation(*settings: object) -> dict[str, float]:
    """Seconds of one command from nothing, by one process of two threads and by two of one."""
    found = {}
    for name, processes in (("one", 1), ("two", PROCESSES)):
        with tempfile.TemporaryDirectory() as folder:
            command = ["python", "-m", "rcfast.eval", "--quiet", "--out", folder, "--processes", processes]
            command += ["--set", f"threads={PROCESSES // processes}", *settings]
            start = time.perf_counter()
            run(command, threads=PROCESSES)
            found[name] = time.perf_counter() - start
    return found


def attacks(options: argparse.Namespace) -> dict[str, float]:
    given = ["--dataset", "mnist", "--root", options.root, "--model", options.checkpoint]
    return evaluation(*given, "--set", "length.r=0.3", "--only", "table3,table4,table5,vote_attacks")


def run(command: list[Any], *, threads: int) -> str:
    """Run a command with so many threads and return the last line that it prints."""
    own = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}
    done = subprocess.run(
        [sys.executable, *map(str, command[1:])],
        env=own | {"OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(
            f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stderr[-2000:]}"
        )
    return done.stdout.strip().rsplit("\n", 1)[-1]


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    found.add_argument("--root", type=Path, required=True, help="folder with mnist.npz")
    found.add_argument("--checkpoint", type=Path, required=True, help="MNIST network of training.save_model")
    found.add_argument("--parts", nargs="+", choices=tuple(BARS), default=tuple(BARS))
    found.add_argument("--rounds", type=int, default=2)
    found.add_argument("--images", type=int, default=100, help="of a vote")
    found.add_argument("--chunk", type=int, default=240, help="points of a pass of a vote")
    found.add_argument("--out", type=Path, help="default: bench/results/scaling-<device>.json")
    found.add_argument("--measure-vote", action="store_true", help=argparse.SUPPRESS)
    return found


def main() -> None:
    options = parser().parse_args()
    if options.measure_vote:
        print(voting(options))
        return
    torch.set_num_threads(PROCESSES)
    device = torch.device("cpu")
    out = options.out or common.RESULTS / f"scaling-{common.slug(device)}.json"
    results = json.loads(out.read_text()) if out.is_file() else {}
    measure = {"vote": vote, "digits": lambda _: evaluation(), "attacks": attacks}
    for part in options.parts:
        rounds = [measure[part](options) for _ in range(options.rounds)]
        least = {name: min(found[name] for found in rounds) for name in ("one", "two")}
        share = least["two"] / least["one"]
        value = 1 / (PROCESSES * share) if part == "vote" else share
        met = value >= BARS[part] if part == "vote" else value <= BARS[part]
        results[part] = {
            **common.header(device),
            "rounds": rounds,
            "value": value,
            "bar": BARS[part],
            "met": met,
        }
        common.write(out, results)
        said = "efficiency" if part == "vote" else "share of the time"
        print(f"{part}: {least['one']:.1f} s, {least['two']:.1f} s: {said} {value:.2f}, bar {BARS[part]} "
              f"({'met' if met else 'missed'})", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
