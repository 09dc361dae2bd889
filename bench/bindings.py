"""What a call of the native module costs by pybind11, and would cost by a plain C interface through ctypes.

    python bench/bindings.py

Two functions that do nothing, with the arguments of `sample_hypercube` and of `vote`, compiled both ways; beside them
the whole operator `rcfast.ops.vote_` on one row. The least of 200 means of 1,000 calls each. Needs a C++ compiler.
"""

import ctypes
import importlib.util
import os
import subprocess
import sysconfig
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import torch

from rcfast import ops

SAMPLE = (
    "P out, int dtype, P x, double r, P each, P ids, L seed, P st, L first, P ft, L b, L s, L n, L c, int clip, "
    "int threads"
)
VOTE = "P counts, P logits, int dtype, L b, L s, L labels, int threads"
C = f"""#include <cstdint>
using P = void*;
using L = int64_t;
extern "C" int sample({SAMPLE}, void* stream) {{ return b + s; }}
extern "C" int vote({VOTE}, void* stream) {{ return b; }}
"""
PYBIND = f"""#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
namespace py = pybind11;
using P = uintptr_t;
using L = int64_t;
int sample({SAMPLE}, std::optional<P> stream) {{ const py::gil_scoped_release release; return b + s; }}
int vote({VOTE}, std::optional<P> stream) {{ const py::gil_scoped_release release; return b; }}
PYBIND11_MODULE(stub, m) {{ m.def("sample", &sample); m.def("vote", &vote); }}
"""
AT = 140_000_000_000_000  # an address of the size that addresses have
ARGUMENTS = {
    "sample": (AT, 0, AT, 0.3, 0, AT, 5, 0, 0, 0, 4, 8, 784, 1, 0, 2, None),
    "vote": (AT, AT, 0, 4, 8, 10, 2, None),
}


def build(folder: Path, name: str, code: str, *flags: str) -> Path:
    source, target = folder / f"{name}.cpp", folder / f"{name}.so"
    source.write_text(code)
    compiler = os.environ.get("CXX", "c++")
    subprocess.run(
        [compiler, "-std=c++17", "-O2", "-fPIC", "-shared", *flags, source, "-o", target], check=True
    )
    return target


def by_ctypes(folder: Path) -> Any:
    library = ctypes.CDLL(str(build(folder, "plain", C)))
    kinds = {"P": ctypes.c_void_p, "int": ctypes.c_int, "double": ctypes.c_double, "L": ctypes.c_int64}
    for name, signature in (("sample", SAMPLE), ("vote", VOTE)):
        words = [word.split()[0] for word in signature.split(", ")]
        getattr(library, name).argtypes = [*(kinds[word] for word in words), ctypes.c_void_p]
    return library


def by_pybind11(folder: Path) -> Any:
    includes = [f"-I{Path(torch.__file__).parent / 'include'}", f"-I{sysconfig.get_path('include')}"]
    path = build(folder, "stub", PYBIND, *includes, "-fvisibility=hidden")
    spec = importlib.util.spec_from_file_location("stub", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def nanoseconds(call: Callable[[], Any], calls: int = 1000) -> float:
    return min(timeit.repeat(call, number=calls, repeat=200)) / calls * 1e9


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        modules = {"ctypes": by_ctypes(Path(name)), "pybind11": by_pybind11(Path(name))}
        rows = {
            f"{function} by {way}": nanoseconds(lambda m=module, f=function: getattr(m, f)(*ARGUMENTS[f]))  # type: ignore[misc]
            for function in ARGUMENTS
            for way, module in modules.items()
        }
    counts, logits = torch.zeros(1, 10, dtype=torch.int32), torch.randn(1, 1, 10)
    rows["rcfast.ops.vote_, one row of ten labels"] = nanoseconds(lambda: ops.vote_(counts, logits))
    for row, value in rows.items():
        print(f"{row}: {value:,.0f} ns")
    device = torch.device("cpu")
    results = {**common.header(device), "nanoseconds": rows}
    common.write(common.RESULTS / f"bindings-{common.slug(device)}.json", results)


if __name__ == "__main__":
    main()
