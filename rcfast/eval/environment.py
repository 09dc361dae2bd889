"""What a result was measured with: versions, processor, device."""

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

import rcfast


def describe(device: torch.device) -> dict[str, Any]:
    """Return versions, hardware and threads, JSON-able and the same in every run on one machine."""
    found: dict[str, Any] = {
        "rcfast": rcfast.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["cuda"] = torch.version.cuda
    return found


def processor() -> str:
    """Return the processor's name as the system gives it."""
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
