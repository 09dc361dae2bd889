"""A run shared among processes of this host, started by the command itself, without torchrun.

The command only watches: it passes Ctrl-C on, and ends the others when one dies. A process ends by itself when the
command does, however that ended.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from rcfast.cores import cores
from rcfast.eval.run.begun import threads_of
from rcfast.eval.run.config import Config

# Data whose passes take Python's time, not the cores': threads wait for one another.
SMALL = ("digits", "mnist")
MOST = 4  # each takes the memory of torch and of the data
WATCHED = "RCFAST_WATCHED"
_LOOK = 0.05  # seconds between two looks at the processes
_PATIENCE = 10.0  # seconds in which an interrupted process has to end


def automatic(config: Config, out: Path) -> int:
    """How many processes serve best: one, but for small grey images on a CPU one a core, up to four.

    Fewer where the folder, or the setting, says that each takes several threads. OMP_NUM_THREADS counts as the cores.
    """
    if "WORLD_SIZE" in os.environ or config.data.name not in SMALL or config.device not in ("auto", "cpu"):
        return 1
    if config.device == "auto" and any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg"))):
        return 1
    told = os.environ.get("OMP_NUM_THREADS", "")
    usable = int(told) if told.isdigit() else cores()
    return max(1, min(MOST, usable // (config.threads or threads_of(out)[0] or 1)))


def launch(arguments: Sequence[str], processes: int) -> int:
    """Run the command line in several processes; return the exit code of the first, or of the one that failed."""
    shared = {
        "OMP_NUM_THREADS": str(max(1, cores() // processes)),
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # else each tells that the first one has left
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        WATCHED: "1",
    }
    command = [sys.executable, "-m", "rcfast.eval", *arguments]
    started = [
        subprocess.Popen(
            command,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches the command alone
        )
        for rank in range(processes)
    ]
    try:
        codes = _watch(started)
    except KeyboardInterrupt:
        codes = _interrupt(started)
    finally:
        for process in started:
            process.kill()
    died = next((code for code in codes if code < 0), 0)
    if died:
        print(
            f"python -m rcfast.eval: a process was ended by signal {-died}; what is finished is kept, the same "
            "command goes on from there",
            file=sys.stderr,
        )
        return 1
    return codes[0] or max(codes)


def watched() -> None:
    """In a process that `launch` started: end when the command that started it has."""
    if os.environ.pop(WATCHED, None):
        threading.Thread(target=_end_with_input, daemon=True).start()


def _end_with_input() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):  # not by sys.stdin, whose lock would outlive this thread
            pass
    os._exit(1)


def _watch(started: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """Wait until all have ended, or one was killed: the others wait for it in vain."""
    while True:
        codes = [process.poll() for process in started]
        if None not in codes or any(code is not None and code < 0 for code in codes):
            return [0 if code is None else code for code in codes]
        time.sleep(_LOOK)


def _interrupt(started: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """End all; the first one says so. The others need not: one that still imports would show a traceback."""
    started[0].send_signal(signal.SIGINT)
    for process in started[1:]:
        process.terminate()
    end = time.monotonic() + _PATIENCE
    with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
        for process in started:
            process.wait(max(0.0, end - time.monotonic()))
    return [130] * len(started)


def _free_port() -> int:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return int(own.getsockname()[1])
