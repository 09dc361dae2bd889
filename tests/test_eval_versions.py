"""The version of every stage is part of the keys of its parts: it has to rise when the code makes other results.

`python tests/test_eval_versions.py` writes the digests of the code as it is into stage_digests.json.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import rcfast
from rcfast.attacks import ATTACKS
from rcfast.eval.run import versions
from rcfast.eval.run.config import ON_VOTES

PINS = Path(__file__).with_name("stage_digests.json")
SOURCE = Path(rcfast.__file__).parent
VOTING = ("classifier.py", "regions/*.py", "stopping.py")
WHERE = "eval/run/versions.py"
STAGES = {  # name: its version, where that stands, the code that decides its results
    "train": (
        [versions.NETWORK, versions.ATTACKED],
        f"NETWORK (or ATTACKED, of adversarial training alone) in {WHERE}",
        ("training/*.py", "models/*.py"),
    ),
    "length": (versions.LENGTH, f"LENGTH in {WHERE}", ("calibration.py", *VOTING)),
    "attack": (
        [versions.ATTACK, versions.REVISED],
        f"ATTACK (or REVISED, of single attacks on networks) in {WHERE}",
        ("attacks/*.py",),
    ),
    "vote": (versions.LABELS, f"LABELS in {WHERE}", VOTING),
}


def digest(patterns: tuple[str, ...], source: Path = SOURCE) -> str:
    """Return the sha256 of names and bytes of all files that match."""
    total = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in source.glob(pattern)}):
        total.update(f"{path.relative_to(source).as_posix()}\n".encode() + path.read_bytes() + b"\0")
    return total.hexdigest()


def current() -> dict[str, dict[str, Any]]:
    return {name: {"version": made[0], "digest": digest(made[2])} for name, made in STAGES.items()}


def complaint(name: str, pinned: dict[str, Any], now: dict[str, Any]) -> str:
    """Return what to do where a stage's code or version is not the pinned one, else nothing."""
    if pinned == now:
        return ""
    _, where, patterns = STAGES[name]
    first = ""
    if pinned["version"] == now["version"]:
        first = (
            f"the code of the stage {name} ({', '.join(patterns)}) changed, and its version did not: a run would "
            f"find parts that the old code made. Unless no result can change, raise {where}. Then "
        )
    return f"{first}run: python tests/test_eval_versions.py"


@pytest.mark.parametrize("name", STAGES)
def test_changed_code_has_another_version(name: str) -> None:
    said = complaint(name, json.loads(PINS.read_text())[name], current()[name])
    assert not said, said


def test_the_digest_sees_every_change(tmp_path: Path) -> None:
    def made(**files: str) -> str:
        for path in tmp_path.iterdir():
            path.unlink()
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text)
        return digest(("*.py",), tmp_path)

    base = made(a="1", b="2")
    assert made(a="1", b="2") == base
    assert len({base, made(a="1", b="3"), made(a="12", b=""), made(a="1"), made(a="1", c="2")}) == 5
    assert all(any(SOURCE.glob(pattern)) for _, _, patterns in STAGES.values() for pattern in patterns)


def test_a_revision_concerns_one_attack_alone() -> None:
    assert set(versions.REVISED) <= {*ATTACKS, *ON_VOTES}
    assert all(versions.on_network(name) != versions.ATTACK for name in versions.REVISED)
    assert all(versions.on_network(name) == versions.ATTACK for name in {*ATTACKS} - {*versions.REVISED})


def test_the_complaint_says_what_to_do() -> None:
    old: dict[str, Any] = {"version": 1, "digest": "a"}
    assert complaint("attack", old, dict(old)) == ""
    forgotten = complaint("attack", old, {**old, "digest": "b"})
    assert "raise ATTACK (or REVISED, of single attacks on networks) in eval/run/versions.py" in forgotten
    assert forgotten.endswith("run: python tests/test_eval_versions.py")
    raised = complaint("attack", old, {"version": 2, "digest": "b"})
    assert raised == "run: python tests/test_eval_versions.py"


if __name__ == "__main__":
    PINS.write_text(json.dumps(current(), indent=1) + "\n")
