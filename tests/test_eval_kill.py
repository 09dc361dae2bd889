"""A run that is killed at random moments, again and again, ends with the same bytes as one left alone.

The test starts this file as a program of its own: it loads torch once and forks a child for every attempt,
which makes a kill cheap enough to have many.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TINY = [
    "protocol.examples=4",
    "protocol.block=2",
    "vote.m=20",
    "vote.seeds=[0,1]",
    "vote.histogram_m=20",
    "length.step=0.1",
    "length.m=20",
    "length.curve_max=0.3",
    "train.point.epochs=4",
    "train.distillation.epochs=2",
    "train.adversarial.epochs=1",
    "train.adversarial.attack_settings={iterations=1, candidates=2}",
    'attacks.names=["T-FGSM","T-CW-L2","DeepFool"]',
    "attacks.settings.T-FGSM={steps=8, refine=2}",
    "attacks.settings.T-RegionCW={steps=5, points=2, votes=50}",
    "attacks.settings.T-CW-L2={searches=1, iterations=8}",
    "attacks.confidences=[5]",
    'attacks.confidence_models=["point"]',
    "attacks.confidence_settings={searches=1, iterations=8}",
    "attacks.alphas=[0, 1]",
    'attacks.adapted=["T-CW-L2"]',
]
VARYING = {"timings.json", "report.html", ".lock"}  # times, and the page that shows them


def arguments(out: Path) -> list[str]:
    settings = [item for text in TINY for item in ("--set", text)]
    return ["--out", str(out), "--quiet", "--only", ",".join(WANTED), *settings]


WANTED = ("table2", "table3", "table4", "table5", "table6", "figure1", "figure4", "figure8")
ROUNDS = 4


def fingerprint(out: Path) -> dict[str, str]:
    """Return the sha256 of every file that a reader is given."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in VARYING and "store" not in path.relative_to(out).parts
    }


def attempt(out: Path, files: int | None = None, delay: float = 0.0) -> int | None:
    """Run in a child; kill it `delay` seconds after it has made `files` files more than there are.

    Not by the clock alone, which says little on a busy machine. Return its exit code, None when it was killed.
    """
    from rcfast.eval import cli

    before = count(out)
    child = os.fork()
    if child == 0:
        os._exit(cli.main(arguments(out)))
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if files is not None and count(out) >= before + files:
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.002)


def count(out: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(out))


def damage(out: Path, dice: random.Random) -> bool:
    """Flip a bit of a random finished part, as a bad disk would; say whether there was one."""
    parts = sorted((out / "store").rglob("*.npz"))
    if parts:
        path = dice.choice(parts)
        data = bytearray(path.read_bytes())
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        path.write_bytes(bytes(data))
    return bool(parts)


def preload() -> None:
    """Import before the first fork what every child would import."""
    import matplotlib.figure  # noqa: F401
    import torch._dynamo  # noqa: F401  (the first optimiser would import it)

    import rcfast.eval.evaluation  # noqa: F401


def main(folder: Path, rounds: int) -> None:
    """Compare interrupted runs with an uninterrupted one; print what happened as JSON."""
    import torch

    preload()
    torch.set_num_threads(1)
    code = attempt(folder / "whole")
    expected = fingerprint(folder / "whole")
    said = {"code": code, "kills": [], "damaged": 0, "equal": [], "files": sorted(expected)}
    for number in range(rounds):
        dice, out, kills = random.Random(number), folder / f"killed{number}", 0
        while kills < 60 and (code := attempt(out, dice.randint(1, 60), dice.uniform(0, 0.1))) is None:
            kills += 1
            if dice.random() < 0.4:
                said["damaged"] += damage(out, dice)
        said["kills"].append(kills)
        said["code"] = said["code"] or code
        said["equal"].append(fingerprint(out) == expected)
    print(json.dumps(said))


@pytest.mark.slow
def test_killed_runs_end_in_the_same_bytes(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path), str(ROUNDS)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["code"] == 0, done.stderr[-2000:]
    assert said["equal"] == [True] * ROUNDS, said
    assert sum(said["kills"]) >= 10, said
    assert said["damaged"] >= 1, said
    once = {"results.json", "outcomes.csv", "grid-figure1.npz"}
    assert once <= set(said["files"])
    assert {Path(name).stem for name in said["files"] if name not in once} == set(WANTED)
    assert len(said["files"]) == len(once) + 4 * len(WANTED)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
