"""The native module as a binary: what it exports, what it needs, that it lets others run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from rcfast import _C, info, ops


def test_only_the_init_function_is_exported():
    if not shutil.which("nm"):
        pytest.skip("nm is not installed")
    lines = subprocess.run(
        ["nm", "-D", "--defined-only", _C.__file__], capture_output=True, text=True, check=True
    )
    assert [line.split()[-1].split("@")[0] for line in lines.stdout.splitlines()] == ["PyInit__C"]


def test_links_no_torch_no_cuda_no_openmp():
    if not shutil.which("ldd"):
        pytest.skip("ldd is not installed")
    needed = subprocess.run(["ldd", _C.__file__], capture_output=True, text=True, check=True).stdout
    assert not [name for name in ("torch", "libcuda", "libcudart", "gomp", "iomp") if name in needed]


@pytest.mark.slow
def test_environment_chooses_the_instruction_set_and_import_touches_no_cuda():
    code = "import torch, rcfast.ops; print(rcfast.ops.build_info()['instruction_set'], torch.cuda.is_initialized())"
    for wish in ops.build_info()["instruction_sets"]:
        env = {**os.environ, "RCFAST_CPU": wish, "CUDA_VISIBLE_DEVICES": ""}
        said = subprocess.run(
            [sys.executable, "-c", code], check=True, env=env, capture_output=True, text=True
        )
        assert said.stdout.split() == [wish, "False"]
    with pytest.raises(ValueError, match=r"instruction set must be one of .*got 'sse1'"):
        _C.use_instruction_set("sse1")


def test_the_gil_is_released():
    """A Python thread makes progress while one call of the kernel runs."""
    out, x = torch.empty(1, 40_000, 4096, dtype=torch.bfloat16), torch.rand(1, 4096)
    ids, ticks, running = torch.zeros(1, dtype=torch.int64), [], threading.Event()

    def tick():
        running.set()
        while running.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.0005)

    thread = threading.Thread(target=tick)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # one long call, a core left for the other thread
    try:
        ops.sample_hypercube_(out[:, :1], x, 0.1, example_ids=ids)
        thread.start()
        running.wait()
        start = time.perf_counter()
        ops.sample_hypercube_(out, x, 0.1, example_ids=ids)
        end = time.perf_counter()
    finally:
        running.clear()
        thread.join()
        torch.set_num_threads(before)
    assert sum(start < t < end for t in ticks) >= 3


def test_a_forked_child_samples():
    """The child has none of its parent's workers; only the kernel runs in it, for OpenMP does not survive a fork."""
    x, ids = torch.full((4, 784), 0.5), torch.arange(4)
    out, again = torch.empty(4, 64, 784), torch.empty(4, 64, 784)
    ops.sample_hypercube_(out, x, 0.5, example_ids=ids)
    expected = out.numpy().tobytes()
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        ops.sample_hypercube_(again, x, 0.5, example_ids=ids)
        os._exit(0 if again.numpy().tobytes() == expected else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_info_as_json_is_the_same_facts():
    printed = subprocess.run(
        [sys.executable, "-m", "rcfast.info", "--json"], capture_output=True, text=True, check=True
    )
    said, facts = json.loads(printed.stdout), info.environment()
    assert said == json.loads(json.dumps({**facts, "threads": said["threads"]}))
    assert said["packages"]["torch"] == facts["packages"]["torch"]
    assert {"rcfast", "python", "platform", "cpu", "native", "cuda_devices", "auto", "optional"} <= set(said)


def test_info_prints_what_was_built(capsys):
    assert info.main([]) == 0
    text = capsys.readouterr().out
    auto = info.precision(torch.device("cpu"))
    said = f"dtype auto    {auto['dtype']} on cpu ({auto['why']})"
    for word in ("rcfast", "torch", ops.build_info()["instruction_set"], "CUDA", "devices", said):
        assert word in text


@pytest.mark.slow
def test_a_forked_child_has_threads_of_its_own():
    """It cannot use those of the OpenMP runtime that its parent has used: they do not exist there."""
    code = """
import os, signal, sys, torch
from rcfast import ops
torch.set_num_threads(1)
x, ids = torch.rand(1, 4096), torch.zeros(1, dtype=torch.int64)
def draw():
    out = torch.empty(1, 256, 4096)
    ops.sample_hypercube_(out, x, 0.3, seed=1, example_ids=ids)
    return out.numpy().tobytes()
parent = draw()
torch.set_num_threads(2)
torch.rand(2_000_000).exp_()  # the parent has threads of OpenMP
child = os.fork()
if not child:
    signal.alarm(30)
    os._exit(0 if draw() == parent else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_loops_run_on_the_openmp_threads_of_torch():
    """Two pools on the same cores wait for each other: a second one is only made where there is no OpenMP."""
    code = """
import os, torch
from rcfast import ops
torch.set_num_threads(2)
torch.rand(2_000_000).exp_()
before = len(os.listdir("/proc/self/task"))
ops.sample_hypercube_(
    torch.empty(1, 256, 4096), torch.rand(1, 4096), 0.3, seed=1, example_ids=torch.zeros(1, dtype=torch.int64)
)
print(len(os.listdir("/proc/self/task")) - before)
"""
    if not sys.platform.startswith("linux") or "OpenMP" not in torch.__config__.parallel_info():
        pytest.skip("torch has no OpenMP threads here")
    said = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True
    )
    assert said.stdout.strip() == "0"
