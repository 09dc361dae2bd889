"""What the device of a model can do, by its instruction set, and the precision that follows from it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import torch

FEWEST = (
    32  # values that a coordinate of a point between 0.5 and 1 takes at least, or its precision is too coarse
)
DtypeChoice = torch.dtype | Literal["auto"] | None

# oneDNN runs torch's convolutions and products; a limit set for it takes units away. ATEN_CPU_CAPABILITY does not.
_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # the first one that is set counts
_BELOW = {"sse41", "avx", "avx2", "avx2_vnni", "avx2_vnni_2", "avx512_core", "avx512_core_vnni"}
_NO_AMX = {*_BELOW, "avx512_core_bf16", "avx512_core_fp16", "avx10_1_512"}
# By the name of the flag in /proc/cpuinfo: the unit, and the limits under which it lies idle.
_UNITS: dict[str, tuple[str, set[str]]] = {
    "avx512_bf16": ("AVX512_BF16", _BELOW),
    "amx_bf16": ("AMX_BF16", _NO_AMX),
    "bf16": ("Arm BF16", set()),
}


_full: list[list[tuple[Any, str, bool | str]]] = []  # one entry for each that is inside full_float32
_full_lock = Lock()


@contextmanager
def full_float32() -> Iterator[None]:
    """float32 convolutions and products on CUDA with all 24 bits inside, whatever torch is set to.

    torch runs float32 convolutions on CUDA in TF32 by default: 10 bits of the mantissas of inputs and weights, sums
    in float32, and which sums depends on the size of the batch. Labels of points near a boundary differ by it
    (docs/voting.md says how many), and adversarial examples lie there: attacks run inside this. The setting is torch's
    own, for the process; where several threads are inside, the last one that leaves puts it back.
    """
    with _full_lock:
        before = float32_settings()
        _full.append(before)
        for where, name, value in before:
            setattr(where, name, False if isinstance(value, bool) else "ieee")
    try:
        yield
    finally:
        with _full_lock:
            at = next(i for i, each in enumerate(_full) if each is before)
            if at + 1 < len(_full):  # who came later still needs it, and puts back what was here before
                _full[at + 1][:] = before
            else:
                for where, name, value in before:
                    setattr(where, name, value)
            del _full[at]


def divisor(x: torch.Tensor, by: float) -> torch.Tensor:
    """What to divide a floating ``x`` by for equal bits everywhere: by a plain number CUDA multiplies its inverse."""
    return x.new_full((), by)


@contextmanager
def deterministic() -> Iterator[None]:
    """cuDNN takes deterministic algorithms only, for the process."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


class _Products:
    """torch's precision of float32 products as an attribute: "medium" is bfloat16 on a CPU, "high" TF32 on a GPU."""

    @property
    def precision(self) -> str:
        return torch.get_float32_matmul_precision()

    @precision.setter
    def precision(self, value: str) -> None:
        torch.set_float32_matmul_precision("highest" if value == "ieee" else value)


_PRODUCTS = _Products()


def float32_settings() -> list[tuple[Any, str, bool | str]]:
    """What torch is told about float32 on CUDA, by whichever of its two interfaces: (object, attribute, value)."""
    found: list[tuple[Any, str, bool | str]] = []
    cudnn: Any = torch.backends.cudnn
    products = torch.backends.cuda.matmul
    for where in (torch.backends, cudnn):  # what is not set by itself follows the first of these that is
        if getattr(where, "fp32_precision", "none") == "tf32":
            found.append((where, "fp32_precision", "tf32"))
            break
    try:
        found.append((cudnn, "allow_tf32", cudnn.allow_tf32))
    except RuntimeError:  # it was set by the newer interface, and the two must not be mixed
        found += [(where, "fp32_precision", where.fp32_precision) for where in (cudnn.conv, cudnn.rnn)]
    try:
        if _PRODUCTS.precision != "highest":
            found.append((_PRODUCTS, "precision", _PRODUCTS.precision))
    except RuntimeError:
        found.append((products, "fp32_precision", products.fp32_precision))
    return found


_agreed: list[torch.dtype] = []  # what `auto` means while processes work together, the last one


@contextmanager
def auto_means(dtype: torch.dtype) -> Iterator[None]:
    """``dtype="auto"`` means this for a while, whatever the device: processes that share a work compute alike."""
    _agreed.append(dtype)
    try:
        yield
    finally:
        _agreed.remove(dtype)


def automatic_dtype(device: torch.device) -> torch.dtype:
    """What ``dtype="auto"`` means on a device: bfloat16 where it multiplies faster in it, else float32.

    Without units for it bfloat16 is emulated, at a tenth of float32's speed (AVX2, MNIST network).
    Inside :func:`auto_means` what was agreed.
    """
    if _agreed:
        return _agreed[-1]
    return torch.bfloat16 if bfloat16_units(device)[0] else torch.float32


def too_coarse(dtype: torch.dtype, spread: float | torch.Tensor | None) -> bool:
    """Whether points that lie so far from their example (:meth:`rcfast.regions.Region.spread`) want a finer dtype.

    Between 0.5 and 1 neighbouring numbers of bfloat16 are 1/256 apart: at r = 0.01 a coordinate takes some 6 values,
    and rounding takes it out of the region by up to a fifth of r. Sizes of examples [B] and unknown ones count as
    small, for what one example gets must not depend on the others.
    """
    if dtype in (torch.float32, torch.float64):
        return False
    if spread is None or isinstance(spread, torch.Tensor):
        return True
    return 0 < 2 * spread < FEWEST * torch.finfo(dtype).eps / 2


def warn_if_coarse(dtype: torch.dtype, spread: float, region: object) -> None:
    if too_coarse(dtype, spread):
        warnings.warn(
            f"{dtype} is coarse for {region!r}: coordinates of its points take few values and round to places outside "
            "it; dtype='auto' draws them in float32",
            RuntimeWarning,
            stacklevel=4,
        )


def resolve_dtype(dtype: DtypeChoice, device: torch.device) -> torch.dtype | None:
    """``dtype`` with ``"auto"`` replaced by what it means on the device."""
    return automatic_dtype(device) if dtype == "auto" else dtype


def has_bfloat16_units(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16 faster than in float32."""
    return bfloat16_units(device)[0]


def bfloat16_units(device: torch.device) -> tuple[bool, str]:
    """Whether this very device has units that multiply bfloat16, and what shows it."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return (major, minor) >= (8, 0), f"compute capability {major}.{minor}"
    if device.type != "cpu":
        return False, f"unknown of {device.type}"
    units = {name: idle for flag, (name, idle) in _UNITS.items() if flag in _cpu_flags()}
    if not units:
        return False, f"the processor has none of {', '.join(name for name, _ in _UNITS.values())}"
    if not torch.backends.mkldnn.is_available():
        return False, f"{', '.join(units)}, but this torch has no oneDNN to use it"
    variable = next((name for name in _LIMITS if name in os.environ), "")
    limit = os.environ.get(variable, "")
    left = [name for name, idle in units.items() if limit.lower() not in idle]
    return bool(left), ", ".join(left) or f"{', '.join(units)}, which {variable}={limit} takes away"


@cache
def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    # "flags" on x86, "Features" on Arm
    found = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(found.partition(":")[2].split())
