"""Counts the machine code of the CUDA kernels and says what speed follows. Needs nvcc and cuobjdump, and no GPU.

    python bench/sass.py [--arch 90] [--out bench/results/sass-sm_90.json] [csrc/cuda/sample_hypercube.cu ...]

Builds each file for one target, finds in cuobjdump's listing the loop that writes points, and counts what it issues
for eight coordinates, by pipe. The rates of the pipes are those of the CUDA C++ Programming Guide (arithmetic
instructions, compute capability 9.0), the numbers of multiprocessors, clocks and memory speeds those of NVIDIA's data
sheets. What follows is a limit from above: latency, write merging and the end of a grid are not in it.
"""

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from common import commit, table, write

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ["-std=c++17", "-O3", "-DNDEBUG", "--fmad=false"]  # as CMakeLists.txt builds them
# Most instructions per eight coordinates, for sm_90; stores of 16 bytes and no spilled registers are asked of all.
BARS = {
    "halves_kernel<Intersect>": 85,
    "halves_kernel<Clamp>": 100,
    "contiguous_kernel<Intersect, bf16>": 85,
    "contiguous_kernel<Clamp, bf16>": 100,
    "contiguous_kernel<Intersect, f16>": 90,
    "colours_kernel<Intersect, float>": 110,
    "colours_kernel<Intersect, bf16>": 110,
}
# Lanes per clock and multiprocessor. Integer multiplies run on half of the units that float32 has.
RATES = {"float": 128, "multiply": 64, "integer": 64, "convert": 16, "double": 64, "memory": 32}
MULTIPLIES = 10  # 32x32 to 64 bits, that a loop over Philox calls has at least
ISSUE = 128  # four warp instructions per clock
PIPES = {
    "float": "FADD FMUL FFMA HFMA2 HADD2 HMUL2",
    "multiply": "IMAD",
    "convert": "MUFU I2F F2I F2F I2I FRND POPC FLO BREV",
    "double": "DADD DMUL DFMA DSETP",
    "memory": "LDG STG LDS STS LDL STL LD ST ATOM ATOMG ATOMS RED REDG SHFL LDSM STSM",
    "control": "BRA BRX BSSY BSYNC BREAK EXIT CALL RET NOP WARPSYNC BAR YIELD ENDCOLLECTIVE DEPBAR ERRBAR MEMBAR",
}
PIPE_OF = {opcode: pipe for pipe, opcodes in PIPES.items() for opcode in opcodes.split()}
UNIFORM = re.compile(
    r"U[A-Z]|R2UR|S2UR"
)  # one for the warp, on a unit of its own; everything else is integer
STORED = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}
SIZES = {"float": 4, "bf16": 2, "f16": 2}


@dataclass(frozen=True)
class Device:
    name: str
    multiprocessors: int
    float32: float  # operations per second, a multiply-add as two: gives the clock
    memory: float  # bytes per second

    def coordinates(self, cycles: float, size: int) -> tuple[float, str]:
        """Per second, and what bounds them: ``cycles`` of a multiprocessor and ``size`` bytes each."""
        compute, memory = self.float32 / 256 / cycles, self.memory / size
        return (compute, "instructions") if compute < memory else (memory, "memory")


DEVICES = [Device("H100 SXM", 132, 67e12, 3.35e12), Device("H200 SXM", 132, 67e12, 4.8e12)]


@dataclass(frozen=True)
class Instruction:
    address: int
    predicate: str
    opcode: str
    operands: str

    @property
    def target(self) -> int | None:
        found = re.search(r"0x([0-9a-f]+)\s*$", self.operands)
        return int(found[1], 16) if found and self.opcode.split(".")[0] == "BRA" else None


@dataclass
class Kernel:
    name: str
    instructions: list[Instruction] = field(repr=False)
    resources: dict[str, int]

    @property
    def size(self) -> int:
        """Bytes of a point's coordinate, by the arguments of the template."""
        return next((SIZES[word] for word in re.findall(r"\w+", self.name) if word in SIZES), 4)


def pipe(opcode: str) -> str:
    first = opcode.split(".")[0]
    return PIPE_OF.get(first) or ("uniform" if UNIFORM.match(first) else "integer")


def parse(listing: str, resources: str = "") -> list[Kernel]:
    """Kernels of ``cuobjdump -sass``, and what ``cuobjdump -res-usage`` says of each."""
    used = {
        name: {k: int(v) for k, v in re.findall(r"(\w+):(\d+)", line)}
        for name, line in re.findall(r"Function (\S+):\s*\n(.*)", resources)
    }
    kernels = []
    for part in re.split(r"^\s*Function : ", listing, flags=re.MULTILINE)[1:]:
        name = part.split("\n", 1)[0].strip()
        found = re.findall(r"/\*([0-9a-f]{4,8})\*/\s+(@!?U?P\w+\s+)?([A-Z]\w*(?:\.\w+)*)([^;]*);", part)
        code = [Instruction(int(a, 16), p.strip(), op, rest.strip()) for a, p, op, rest in found]
        kernels.append(Kernel(demangled(name), code, used.get(name, {})))
    return kernels


def demangled(name: str) -> str:
    """``kernel<Region, type>`` without namespaces and parameters; the name itself where c++filt is missing."""
    if shutil.which("c++filt"):
        name = subprocess.run(["c++filt", name], capture_output=True, text=True, check=True).stdout.strip()
    name = re.sub(r"(?:\w+|\(anonymous namespace\))::", "", name)
    return name.removeprefix("void ").split("(", 1)[0]


def loops(code: list[Instruction]) -> list[list[Instruction]]:
    """The innermost natural loops. A branch for warps that have diverged (BRA.DIV) counts as not taken."""
    starts = {code[0].address} | {i.target for i in code if i.target is not None}
    starts |= {b.address for a, b in pairwise(code) if _leaves(a) or a.target is not None}
    blocks: dict[int, list[Instruction]] = {}
    for one in code:
        if one.address in starts:
            block = blocks[one.address] = []
        block.append(one)
    order = list(blocks)
    after = {}
    for at, following in zip(order, [*order[1:], None], strict=True):
        last = blocks[at][-1]
        goes = [] if _leaves(last) or following is None else [following]
        if last.target in blocks and not last.opcode.startswith("BRA.DIV"):
            goes.append(last.target)
        after[at] = goes
    dominators = _dominators(order, after)
    found = []
    for tail, goes in after.items():
        for head in goes:
            if head in dominators.get(tail, ()):
                found.append((head, _members(head, tail, after, dominators)))
    inner = [members for head, members in found if not any(h != head and h in members for h, _ in found)]
    return [[i for at in order if at in members for i in blocks[at]] for members in inner]


def _leaves(one: Instruction) -> bool:
    """Whether the next instruction is never the next."""
    plain = one.target is not None and one.operands.startswith("0x") and not one.opcode.startswith("BRA.DIV")
    return not one.predicate and (one.opcode.split(".")[0] in ("EXIT", "RET") or plain)


def _dominators(order: list[int], after: dict[int, list[int]]) -> dict[int, set[int]]:
    before: dict[int, list[int]] = {at: [] for at in order}
    for at, goes in after.items():
        for to in goes:
            before[to].append(at)
    reached, wave = {order[0]}, [order[0]]
    while wave:
        new = [to for to in after[wave.pop()] if to not in reached]
        reached.update(new)
        wave += new
    result = {at: ({at} if at == order[0] else set(reached)) for at in reached}
    changed = True
    while changed:
        changed = False
        for at in order:
            if at == order[0] or at not in reached:
                continue
            new_set = {at} | set.intersection(*(result[b] for b in before[at] if b in reached))
            changed |= new_set != result[at]
            result[at] = new_set
    return result


def _members(head: int, tail: int, after: dict[int, list[int]], reached: Any) -> set[int]:
    members, wave = {head, tail}, [tail]
    while wave:
        at = wave.pop()
        if at == head:
            continue
        new = [b for b, goes in after.items() if at in goes and b in reached and b not in members]
        members.update(new)
        wave += new
    return members


def stored_bytes(code: list[Instruction]) -> int:
    """Bytes that the global stores of a thread write."""
    stores = [i.opcode.split(".") for i in code if i.opcode.split(".")[0] == "STG"]
    return sum(next((STORED[p] for p in parts if p in STORED), 4) for parts in stores)


def asks(loop: list[Instruction]) -> bool:
    """Whether it stores on conditions: of two loops, the one for the end of a walk."""
    inside = loop[:-1]  # the last one goes back to the first
    return any(i.target is not None or (i.predicate and i.opcode.startswith("STG")) for i in inside)


def wide(code: list[Instruction]) -> int:
    return sum(i.opcode.startswith("IMAD.WIDE") for i in code)


def count(kernel: Kernel) -> dict[str, Any] | None:
    """Of the loop that writes points: instructions for eight coordinates, cycles, stores. None without one."""
    drawing = [loop for loop in loops(kernel.instructions) if stored_bytes(loop) and wide(loop) > MULTIPLIES]
    if not drawing:
        return None
    loop = min(drawing, key=lambda each: (asks(each), -len(each)))
    eights = stored_bytes(loop) / kernel.size / 8
    pipes = Counter(pipe(i.opcode) for i in loop)
    each = {name: number / eights for name, number in sorted(pipes.items())}
    # Cycles of a multiprocessor for one coordinate of each of its lanes: the busiest of issue and pipes.
    lanes = {name: each.get(name, 0) / rate for name, rate in RATES.items()}
    lanes["float"] = (each.get("float", 0) + each.get("multiply", 0)) / RATES["float"]
    lanes["issue"] = len(loop) / eights / ISSUE
    busiest = max(lanes, key=lambda name: lanes[name])
    return {
        "instructions": len(loop) / eights,
        "pipes": each,
        "busiest": busiest,
        "cycles": lanes[busiest] / 8,
        "stores": sorted({i.opcode for i in loop if i.opcode.startswith("STG")}),
    }


def occupancy(resources: dict[str, int], threads: int = 256) -> float:
    """Share of the 64 warps of a multiprocessor (sm_90: 65,536 registers, 227 KB of shared memory)."""
    warps = threads // 32
    registers = -(-resources["REG"] * 32 // 256) * 256 * warps
    shared = resources.get("SHARED", 0) + 1024
    return min(64 // warps, 65536 // registers, 227 * 1024 // shared) * warps / 64


def find(name: str) -> str | None:
    """A tool of the CUDA toolkit, on the path or in the triton package, with which torch brings cuobjdump."""
    if found := shutil.which(name):
        return found
    spec = importlib.util.find_spec("triton")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(folder) / "backends" / "nvidia" / "bin" / name).is_file():
            return str(path)
    return None


def tool(name: str) -> str:
    return find(name) or sys.exit(f"{name} is neither on the path nor in the triton package")


def build(source: Path, arch: str) -> list[Kernel]:
    with tempfile.TemporaryDirectory() as folder:
        cubin = str(Path(folder) / "kernel.cubin")
        subprocess.run(
            [tool("nvcc"), *FLAGS, f"-arch=sm_{arch}", "-cubin", str(source), "-o", cubin], check=True
        )
        dump = tool("cuobjdump")
        sass, usage = (
            subprocess.run([dump, option, cubin], capture_output=True, text=True, check=True).stdout
            for option in ("-sass", "-res-usage")
        )
    return parse(sass, usage)


def row(kernel: Kernel) -> dict[str, Any]:
    used = kernel.resources
    result: dict[str, Any] = {
        "kernel": kernel.name,
        "registers": used.get("REG"),
        "spilled_bytes": used.get("LOCAL", 0) + used.get("STACK", 0),
        "occupancy": occupancy(used) if used else None,
    }
    if counted := count(kernel):
        result |= counted
        for device in DEVICES:
            speed, bound = device.coordinates(counted["cycles"], kernel.size)
            result[device.name] = {"coordinates_per_s": speed, "bound": bound}
    if kernel.name in BARS:
        result["bar"] = BARS[kernel.name]
        result["met"] = (
            result.get("instructions", 1e9) <= result["bar"]
            and result["stores"] == ["STG.E.128"]
            and not result["spilled_bytes"]
        )
    return result


def show(rows: list[dict[str, Any]]) -> str:
    named = ("float", "multiply", "integer", "memory")
    columns = ["kernel", "per 8", "bar", "", *named, "rest", "registers", "spilled", "occupancy", "stores"]
    cells = []
    for r in rows:
        line = {"kernel": r["kernel"], "registers": r["registers"], "spilled": r["spilled_bytes"]}
        line["occupancy"] = f"{100 * (r['occupancy'] or 0):.0f}%"
        if "pipes" in r:
            line |= {n: f"{r['pipes'].get(n, 0):.0f}" for n in named} | {"per 8": f"{r['instructions']:.0f}"}
            line["rest"] = f"{sum(v for k, v in r['pipes'].items() if k not in named):.0f}"
            line["stores"] = " ".join(s.removeprefix("STG.E").strip(".") or "32" for s in r["stores"])
            for d in DEVICES:
                line[d.name] = f"{r[d.name]['coordinates_per_s'] / 1e12:.2f} by {r[d.name]['bound']}"
        if "bar" in r:
            line |= {"bar": r["bar"], "": "met" if r["met"] else "MISSED"}
        cells.append([str(line.get(c, "")) for c in [*columns, *(d.name for d in DEVICES)]])
    return table("", [*columns, *(f"{d.name}, 1e12/s" for d in DEVICES)], cells)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="*", type=Path, help="CUDA files (default: all of csrc/cuda)")
    parser.add_argument("--arch", default="90", help="compute capability to build for (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    sources = arguments.sources or sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    rows = [row(kernel) for source in sources for kernel in build(source, arguments.arch)]
    version = subprocess.run([tool("nvcc"), "--version"], capture_output=True, text=True, check=True).stdout
    compiler = version.strip().splitlines()[-2]
    print(
        f"sm_{arguments.arch}, {compiler}; instructions for eight coordinates in the loop that writes points\n"
    )
    print(show(rows))
    if arguments.out:
        facts = {"arch": f"sm_{arguments.arch}", "compiler": compiler, "commit": commit()}
        facts |= {"devices": [asdict(device) for device in DEVICES], "kernels": rows}
        write(arguments.out, facts)
    held = all(r["met"] for r in rows if "bar" in r)
    return 0 if arguments.arch != "90" or held else 1


if __name__ == "__main__":
    sys.exit(main())
