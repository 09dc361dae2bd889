"""``python -m rcfast.info``: what was built, what it runs on, and the versions of what it builds on.

``--json`` prints the same facts for programs and for reports of faults.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from rcfast import __version__, hardware, ops

_PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "scipy", "safetensors", "pillow", "matplotlib")
_OPTIONAL = ("timm", "transformers", "pyarrow", "foolbox", "adversarial-robustness-toolbox", "torchattacks")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def environment() -> dict[str, Any]:
    """Versions, processor, instruction set, CUDA build and devices, as JSON-able facts for result files."""
    try:
        native = ops.build_info()
    except (RuntimeError, ValueError) as error:
        native = {"error": str(error)}
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "rcfast": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "optional": {name: _version(name) for name in _OPTIONAL},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "native": native,
        "cuda_devices": devices,
        "auto": {str(device): precision(device) for device in _devices()},
    }


def precision(device: torch.device) -> dict[str, str]:
    """What ``dtype="auto"`` means on a device, and why, JSON-able."""
    dtype, why = hardware.automatic_dtype(device), hardware.bfloat16_units(device)[1]
    return {"dtype": str(dtype).removeprefix("torch."), "why": why}


def _devices() -> list[torch.device]:
    return [torch.device("cpu"), *(torch.device("cuda", i) for i in range(torch.cuda.device_count()))]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the facts; the exit code is 1 where the native module is missing or broken."""
    made = argparse.ArgumentParser(prog="python -m rcfast.info", description=__doc__.partition("\n")[0])
    made.add_argument("--json", action="store_true", help="print JSON")
    facts = environment()
    native = facts["native"]
    if made.parse_args(argv).json:
        print(json.dumps(facts, indent=1))
        return int("error" in native)
    print(f"rcfast {facts['rcfast']}, Python {facts['python']}, {facts['platform']}")
    print(
        "packages     ",
        ", ".join(f"{name} {number or 'missing'}" for name, number in facts["packages"].items()),
    )
    there = [f"{name} {number}" for name, number in facts["optional"].items() if number]
    print("optional     ", ", ".join(there) or "none of " + ", ".join(facts["optional"]))
    print(f"cpu           {facts['cpu']}, {facts['cores']} cores, {facts['threads']} threads")
    if "error" in native:
        print(f"native        {native['error']}")
        return 1
    print(
        f"native        built with {native['compiler']}; instruction set in use {native['instruction_set']}",
        end="",
    )
    print(f" (usable: {', '.join(native['instruction_sets'])})")
    built = (
        f"nvcc {native['cuda']}, targets {native['cuda_targets']}"
        if native["cuda"]
        else "not built (no nvcc)"
    )
    print(f"CUDA kernels  {built}")
    print(f"CUDA devices  {', '.join(facts['cuda_devices']) or 'none seen'}")
    for device, auto in facts["auto"].items():
        print(f"dtype auto    {auto['dtype']} on {device} ({auto['why']})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
