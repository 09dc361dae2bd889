"""How long whole commands take, each from nothing, beside its bar.

    python bench/whole.py [--root DATA] [--only digits,mnist,tests] [--held avx2]

A command gets an empty folder and an empty cache; what else the machine does meanwhile stands beside its time. Prints a
table and writes bench/results/whole-<device>.json, a command at a time, keeping what it does not measure.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, header, slug, table, write

HERE = Path(__file__).resolve().parent.parent
# Name: the command, and its bar in minutes on two AVX2 cores.
COMMANDS = {
    "digits": ("python -m rcfast.eval", 2.5),
    "mnist": ("python -m rcfast.eval --dataset mnist", 10.0),
    "cpu": ("python -m rcfast.eval --preset cpu --processes 2", 60.0),
    "certified": ("python -m rcfast.eval --preset certified", 4.0),
    "tests": ("python -m pytest -q -n auto", 5.0),
    "check": ("bash .ci/run", 25.0),
}
HELD = {"RCFAST_CPU": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}


def run(command: str, root: Path | None, held: bool) -> dict[str, Any]:
    """Run one command from nothing; its seconds, exit code, last line, and the load before and after."""
    with tempfile.TemporaryDirectory() as folder:
        own = {"XDG_CACHE_HOME": f"{folder}/cache", "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor"}
        own |= HELD if held else {}
        if root is not None:
            own["RCFAST_DATA"] = str(root.resolve())
        started = [sys.executable if word == "python" else word for word in shlex.split(command)]
        if evaluates := "rcfast.eval" in started:
            started += ["--out", f"{folder}/report"]
        load, begin = os.getloadavg()[0], time.perf_counter()
        done = subprocess.run(
            started,
            cwd=HERE,
            env={**os.environ, **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        seconds = time.perf_counter() - begin
    lines = (
        [] if evaluates else done.stdout.split("\n")
    )  # an evaluation's last line names the folder, which is gone
    if done.returncode:
        print(done.stdout[-2000:], file=sys.stderr)
    return {
        "command": command,
        "seconds": seconds,
        "exit_code": done.returncode,
        "last_line": next((line for line in reversed(lines) if line.strip()), ""),
        "load": [load, os.getloadavg()[0]],
        "held": HELD if held else {},
        **{key: value for key, value in header(torch.device("cpu")).items() if key in ("commit", "date")},
    }


def text(seconds: float) -> str:
    return "{} min {} s".format(*divmod(round(seconds), 60))


def show(rows: dict[str, Any]) -> str:
    cells = []
    for name, row in rows.items():
        bar = COMMANDS[name.partition(" ")[0]][1]
        verdict = "met" if row["seconds"] <= 60 * bar and not row["exit_code"] else "MISSED"
        load = f"{row['load'][0]:.1f}"
        cells.append([name, text(row["seconds"]), f"{bar:g} min", verdict, load, row["commit"] or ""])
    return table("Whole commands", ["what", "measured", "bar", "", "load before", "commit"], cells)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, help="folder of the data sets (default: RCFAST_DATA)")
    parser.add_argument("--only", default="digits,mnist,certified,tests", help=f"of {','.join(COMMANDS)}")
    parser.add_argument("--held", choices=["avx2"], help="hold the processor to these instructions")
    parser.add_argument("--out", type=Path, help="result file (default: bench/results/whole-<device>.json)")
    arguments = parser.parse_args()
    names = arguments.only.split(",")
    if unknown := set(names) - COMMANDS.keys():
        parser.error(f"--only must be among {', '.join(COMMANDS)}, got {sorted(unknown)[0]!r}")
    device = torch.device("cpu")
    path = arguments.out or RESULTS / f"whole-{slug(device)}.json"
    results = json.loads(path.read_text()) if path.is_file() else {**header(device), "commands": {}}
    for name in names:
        key = f"{name} ({arguments.held})" if arguments.held else name
        print(f"{key} ...", flush=True)
        found = run(COMMANDS[name][0], arguments.root, bool(arguments.held))
        results["commands"][key] = found
        write(path, results)
    print(show(results["commands"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
