"""Builds the native module rcfast._C with CMake and Ninja; everything else stands in pyproject.toml.

Environment: RCFAST_CUDA unset (build the CUDA kernels if nvcc is there), 1 (fail without nvcc) or 0 (skip
them); RCFAST_CUDA_TARGETS, for example "80-real;90", else the visible GPUs' own, else a short list with PTX for
newer ones.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def pybind11_include() -> str:
    try:
        import pybind11

        return pybind11.get_include()
    except ImportError:  # --no-build-isolation where only torch is there: it carries the headers
        try:
            import torch
        except ImportError:
            sys.exit("building rcfast needs pybind11 (pip install pybind11)")
        return str(Path(torch.__file__).parent / "include")


def visible_gpu_targets() -> str | None:
    try:
        query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        caps = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.split()
        return ";".join(sorted({f"{int(float(cap) * 10)}-real" for cap in caps})) or None
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        wish = os.environ.get("RCFAST_CUDA", "")
        if wish not in ("", "0", "1"):
            sys.exit(f"RCFAST_CUDA must be 0, 1 or unset, got {wish!r}")
        options = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_INSTALL_PREFIX": target,
            "Python_EXECUTABLE": sys.executable,
            "RCFAST_PYBIND11_INCLUDE": pybind11_include(),
            "RCFAST_CUDA": {"": "AUTO", "0": "OFF", "1": "ON"}[wish],
        }
        cuda_targets = os.environ.get("RCFAST_CUDA_TARGETS") or visible_gpu_targets()
        if cuda_targets:
            options["RCFAST_CUDA_TARGETS"] = cuda_targets
        ninja = ["-G", "Ninja"] if shutil.which("ninja") else []
        # A fresh cache each time: pip's isolated environments move, ninja's objects stay valid.
        (build / "CMakeCache.txt").unlink(missing_ok=True)
        defines = [f"-D{name}={value}" for name, value in options.items()]
        subprocess.run(["cmake", "-S", ROOT, "-B", build, *ninja, *defines], check=True)
        subprocess.run(["cmake", "--build", build, "--parallel", str(os.cpu_count() or 1)], check=True)
        subprocess.run(["cmake", "--install", build], check=True)


setup(ext_modules=[Extension("rcfast._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
