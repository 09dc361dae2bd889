"""bench/sass.py: loops and counts on a small listing (of a channels_last kernel, most instructions left out), and its
bars on the kernels themselves where a compiler and cuobjdump are at hand."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"
sys.path.insert(0, str(BENCH))
import sass  # noqa: E402

LISTING = (Path(__file__).parent / "sass_listing.txt").read_text()
NAME = LISTING.split("Function : ")[1].split()[0]
USAGE = f" Function {NAME}:\n  REG:95 STACK:0 SHARED:12288 LOCAL:0 CONSTANT[0]:640 TEXTURE:0\n"


def test_a_listing_is_read() -> None:
    (kernel,) = sass.parse(LISTING, USAGE)
    assert kernel.instructions[0] == sass.Instruction(0x80, "", "BSSY", "B0, 0x3a0")
    assert kernel.instructions[1].target == 0x240
    assert kernel.resources["REG"] == 95
    if shutil.which("c++filt"):
        assert kernel.name == "colours_kernel<Intersect, bf16>"
        assert kernel.size == 2
    assert sass.occupancy(kernel.resources) == 2 * 8 / 64  # 95 registers: two blocks of eight warps


def test_the_innermost_loop_is_found() -> None:
    """The loop over examples around it, the forward branches and the padding at the end are none."""
    (kernel,) = sass.parse(LISTING)
    (inner,) = sass.loops(kernel.instructions[:-1])
    assert (inner[0].address, inner[-1].address) == (0x1AB0, 0x2BD0)
    inside = [i for i in kernel.instructions if 0x1AB0 <= i.address <= 0x2BD0]
    assert inner == inside  # without the copy for warps that have diverged, at 0x2c80


def test_instructions_are_counted_by_pipe_for_eight_coordinates(monkeypatch: pytest.MonkeyPatch) -> None:
    (kernel,) = sass.parse(LISTING)
    monkeypatch.setattr(sass.Kernel, "size", 2)
    found = sass.count(kernel)
    assert found is not None
    inside = [line for line in LISTING.splitlines() if "/*1ab0*/" <= line.strip()[:8] <= "/*2bd0*/"]
    eights = 3 * 16 / 2 / 8  # three stores of 16 bytes
    assert found["instructions"] == len(inside) / eights
    words = [line.split("*/")[1].split() for line in inside]
    names = [next(w for w in line if w[0] != "@").split(".")[0] for line in words]
    for pipe, opcodes in {"multiply": "IMAD", "float": "FADD", "memory": "STS LDS STG"}.items():
        assert found["pipes"][pipe] == sum(name in opcodes.split() for name in names) / eights
    assert found["stores"] == ["STG.E.128"]


@pytest.mark.parametrize(
    ("opcode", "pipe"),
    [
        ("IMAD.WIDE.U32", "multiply"),
        ("FADD.SAT", "float"),
        ("F2FP.BF16.F32.PACK_AB", "integer"),
        ("I2F.U16", "convert"),
        ("I2FP.F32.U32", "integer"),
        ("UIADD3", "uniform"),
        ("LOP3.LUT", "integer"),
        ("BRA.DIV", "control"),
        ("DFMA", "double"),
    ],
)
def test_pipes(opcode: str, pipe: str) -> None:
    assert sass.pipe(opcode) == pipe


def test_what_follows_for_a_device() -> None:
    h100 = sass.DEVICES[0]
    speed, bound = h100.coordinates(cycles=0.0625, size=2)  # eight issue slots a coordinate
    assert (speed, bound) == (h100.memory / 2, "memory")
    speed, bound = h100.coordinates(cycles=1.0, size=2)
    assert bound == "instructions"
    assert speed == pytest.approx(132 * 1.983e9, rel=1e-3)  # one a clock on each multiprocessor


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on this machine")
@pytest.mark.skipif(sass.find("cuobjdump") is None, reason="no cuobjdump on this machine")
def test_the_samplers_meet_their_bars() -> None:
    """Compiled for sm_90. Another version of nvcc may need a few instructions more or less; the bars leave room."""
    out = subprocess.run(
        [sys.executable, BENCH / "sass.py", "csrc/cuda/sample_hypercube.cu"],
        capture_output=True,
        text=True,
        cwd=BENCH.parent,
    )
    assert out.returncode == 0, out.stdout + out.stderr
    assert "MISSED" not in out.stdout
    rows = [line.split() for line in out.stdout.splitlines() if "_kernel<" in line]
    assert len(rows) == 18
    assert out.stdout.count(" met ") == len(sass.BARS)


def test_of_two_loops_the_one_that_stores_without_asking_counts() -> None:
    """The other one is for the end of a walk."""

    def loop(start: int, length: int, predicate: str) -> list[sass.Instruction]:
        body = [
            sass.Instruction(start + 16 * i, "", "IMAD.WIDE.U32", "R2, R3, R4, RZ") for i in range(length)
        ]
        store = sass.Instruction(start + 16 * length, predicate, "STG.E.128", "desc[UR4][R2.64], R8")
        back = sass.Instruction(start + 16 * (length + 1), "@P0", "BRA", f"0x{start:x}")
        return [*body, store, back]

    code = [*loop(0, 20, ""), *loop(0x200, 30, "@!P1"), sass.Instruction(0x420, "", "EXIT", "")]
    found = sass.count(sass.Kernel("halves_kernel<float>", code, {}))
    assert found is not None
    assert found["instructions"] == 22 * 2  # four of eight coordinates in each
    only = sass.count(sass.Kernel("halves_kernel<float>", [*code[22:]], {}))
    assert only is not None
    assert only["instructions"] == 32 * 2
