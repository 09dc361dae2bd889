"""What the processor can do."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch


@cache
def has_bfloat16_units(device: str) -> bool:
    """Whether a type of device (`cpu`, `cuda`) multiplies in bfloat16 faster than in float32."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    cpuinfo = Path("/proc/cpuinfo")
    if device != "cpu" or not cpuinfo.is_file():
        return False
    flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags
