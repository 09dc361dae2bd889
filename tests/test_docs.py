"""The examples of the docs and of --help run: Python blocks as they stand, commands with less work.

docs/evaluation.md's own data, network and defence are run in full by test_eval_run.py, the README's Python by
test_readme.py, its first command, complete, by .ci/run.
"""

import ast
import importlib.util
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import people
import photographs
import pytest
import torch
import torchvision
from torch import nn

from rcfast import RegionClassifier, data, training
from rcfast.eval import cli

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(encoding="utf-8"), re.DOTALL)


def run(block: str, namespace: dict[str, Any]) -> None:
    exec(compile(block, "docs", "exec"), namespace)


@pytest.fixture
def namespace(digits: data.Dataset) -> dict[str, Any]:
    """What the examples take for granted: a trained model and examples."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    training.fit(model, digits.train, epochs=5)
    x, labels = digits.test.x[:5], digits.test.y[:5]
    return {
        "model": model,
        "x": x,
        "labels": labels,
        "targets": (labels + 1) % 10,
        "x_validation": digits.validation.x[:50],
        "y_validation": digits.validation.y[:50],
        "region": RegionClassifier(model, r=0.2),
        "loss": nn.CrossEntropyLoss(),
    }


def test_every_page_with_python_is_run() -> None:
    pages = {path.name for path in DOCS.glob("*.md") if blocks(path.name)}
    assert pages == {
        "attacks.md",
        "certificates.md",
        "checks.md",
        "data.md",
        "evaluation.md",
        "regions.md",
        "scaling.md",
        "exchange.md",
        "models.md",
        "statistics.md",
        "training.md",
        "voting.md",
    }


def test_regions(namespace: dict[str, Any]) -> None:
    (block,) = blocks("regions.md")
    run(block, namespace)
    for found in ("smooth", "ball", "thin"):
        assert namespace[found].shape == (5,)
    assert namespace["search"].r in namespace["search"].radii


def test_voting(namespace: dict[str, Any], digits: data.Dataset) -> None:
    first, learning, libraries = blocks("voting.md")
    run(first, namespace)
    assert namespace["labels"].tolist() == namespace["votes"].label.tolist()
    assert (namespace["votes"].counts.sum(1) == namespace["votes"].samples).all()
    run(learning, namespace)
    assert namespace["search"].r in namespace["search"].radii
    accepted = []
    for statement in ast.parse(libraries).body:  # each line is of another library: those that are here
        call = ast.unparse(statement)
        library = call.partition(".")[0]
        if importlib.util.find_spec(library) is not None:
            run(
                f"import {library}\n{'import art.estimators.classification' * (library == 'art')}\n{call}",
                namespace,
            )
            accepted.append(library)
    assert {"foolbox", "art"} <= set(accepted)  # the test extras


def test_certificates(namespace: dict[str, Any]) -> None:
    (certified,) = blocks("certificates.md")
    run(certified, namespace)
    assert namespace["right"].float().mean() > 0.8
    assert (namespace["proven"].radius > 0.1).float().mean() > 0.5


def test_scaling(namespace: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
        "RANK": "0",
        "WORLD_SIZE": "1",
    }.items():
        monkeypatch.setenv(name, value)
    (shared,) = blocks("scaling.md")
    try:
        run(shared, namespace)
    finally:
        torch.distributed.destroy_process_group()
    assert len(namespace["votes"]) == 5


def test_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    embedded, own, folder = blocks("data.md")
    found: dict[str, Any] = {}
    run(embedded, found)
    assert capsys.readouterr().out == re.search(r"# (.*\n)", embedded)[1]  # type: ignore[index]
    run(own, found)
    assert (found["own"].name, found["own"].num_classes, len(found["own"].test)) == ("own", 10, 100)
    run(folder, found)
    assert capsys.readouterr().out == re.search(r"# (\(3, 32.*\n)", folder)[1]  # type: ignore[index]


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks("models.md")
    found: dict[str, Any] = {}
    run(block, found)
    assert "resize=256" in capsys.readouterr().out
    assert found["model"](torch.rand(2, 3, 64, 64)).shape == (2, 4)


@pytest.mark.slow
def test_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], digits: data.Dataset
) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("training.md")
    found: dict[str, Any] = {}
    run(block, found)
    accuracy = training.evaluate(found["model"], digits.test)  # of the model that was saved and loaded
    assert float(accuracy) >= 0.98
    assert capsys.readouterr().out == f"{found['result'].accuracy} {accuracy}\n"
    assert found["config"] == {"dataset": "digits"}


@pytest.mark.slow
def test_attacks(namespace: dict[str, Any]) -> None:
    block, own = blocks("attacks.md")
    run(block, namespace)
    result, model = namespace["result"], namespace["model"].eval()
    assert result.success.any()
    fooled = model(result.adversarial).argmax(1) == namespace["targets"]
    assert fooled[result.success].all()
    run(own, namespace)
    assert len(re.findall(r"^[^#\n]", own, re.MULTILINE)) <= 20
    rates = {name: judged.success.double().mean() for name, judged in namespace["found"].items()}
    assert rates["RegionCW"] > 0.9
    assert rates["transfer"] < rates["RegionCW"]
    assert namespace["broken"].all()


def test_checks(namespace: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks("checks.md")
    run(block, namespace)
    assert capsys.readouterr().out.count("Check(") == 3 + 5


def test_statistics(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks("statistics.md")
    run(block, {})
    rates, difference, median = capsys.readouterr().out.splitlines()
    assert rates.count("Interval(") == 2
    assert difference.startswith("Difference(value=-0.")
    assert median.startswith("Median(")


def examples() -> list[str]:
    """The arguments of every `python -m rcfast.eval` in --help and the docs that test_eval_run.py does not run."""
    lines = re.findall(r"^  python -m rcfast\.eval(.*)$", cli.EPILOG, re.MULTILINE)
    found = [re.split(r" {2,}", line)[0] for line in lines]
    for path in [*sorted(DOCS.rglob("*.md")), ROOT / "README.md"]:
        text = path.read_text(encoding="utf-8")
        shown = re.findall(r"(<!-- run -->\n)?```sh\n(.*?)```", text, re.DOTALL)
        for line in (
            "\n".join(block for marked, block in shown if not marked).replace("\\\n", "").splitlines()
        ):
            command = re.search(r"python -m rcfast\.eval(.*)", line.partition("#")[0])
            found += [command[1]] if command else []
    return list(dict.fromkeys(" ".join(shlex.quote(word) for word in shlex.split(one)) for one in found))


LESS = [
    "train.point.epochs=3",
    "length.r=0.1",
    "length.m=20",
    "length.curve_max=0",
    "vote.m=20",
    "train.adversarial.epochs=1",
    "train.adversarial.attack_settings={iterations=1, candidates=2}",
    "train.distillation.epochs=1",
    'attacks.names=["T-FGSM"]',
    "attacks.vote=[]",
]
MODULES = {
    "mymodule.py": "class Mine:\n    name = 'my own'\n    def __init__(self, network):\n        self.label = "
    "lambda x: network(x).argmax(1)\n\ndef make(model, dataset):\n    return Mine(model)\n",
    "mnist_net.py": "from torch import nn\n\ndef network():\n    "
    "return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))\n",
    "net.py": "from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))\n",
}


def small(path: Path, side: int, classes: int, colours: tuple[int, ...] = ()) -> None:
    path.parent.mkdir(exist_ok=True)
    x, y = np.random.default_rng(0).random((300, side, side, *colours)), np.arange(300) % classes
    np.savez(path, x_train=x, y_train=y, x_test=x[:50], y_test=y[:50])


def test_commands_for_many_hosts_are_shell_and_known_to_the_evaluation() -> None:
    """torchrun, srun and the script for Slurm cannot run here; what they start is parsed."""
    blocks = re.findall(r"```sh\n(.*?)```", (DOCS / "scaling.md").read_text(encoding="utf-8"), re.DOTALL)
    started = []
    for block in blocks:
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
        for line in block.replace("\\\n", "").splitlines():
            if "torchrun" in line and "rcfast.eval" in line:
                options = line.partition("-m rcfast.eval")[2].partition("#")[0]
                started.append(cli.parser().parse_args(shlex.split(options)))
    assert len(started) >= 4
    assert all(one.out for one in started)


def test_the_examples_are_found() -> None:
    assert len(examples()) >= 6
    assert "" in examples()


# They build or train residual networks and transformers, run twice, or start processes that train.
LONG = ("--dataset photos", "--model hf:", "--processes", "--strict")


@pytest.mark.parametrize(
    "command",
    [pytest.param(one, marks=pytest.mark.slow if any(map(one.count, LONG)) else ()) for one in examples()],
)
def test_a_command_of_the_docs_works(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, code in MODULES.items():
        (tmp_path / name).write_text(code)
    small(tmp_path / "mine.npz", 8, 3)
    small(tmp_path / "DATA" / "mnist.npz", 28, 10)
    small(tmp_path / "DATA" / "cifar10.npz", 32, 10, (3,))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if "photos" in command:
        photographs.write(tmp_path / "photos", 20, side=64)
        torch.save(torchvision.models.squeezenet1_1(num_classes=4).state_dict(), tmp_path / "mine.pth")
    if "--model" not in command and "imagenet" in command:  # whose weights would be fetched
        command += " --model torchvision:squeezenet1_1 --weights mine.pth"
    if "imagenet" in command:  # whose data sets are larger
        command += " --set data.validation=4 --set data.test=12"
    if "hf:" in command:
        people.write_hub(tmp_path / "hub")
        people.write_vit(tmp_path / "vit")
    monkeypatch.setitem(data.PUBLISHED, "mnist", (300, 50, (1, 28, 28)))
    monkeypatch.setitem(data.PUBLISHED, "cifar10", (300, 50, (3, 32, 32)))
    given = shlex.split(command.replace("--processes 8", "--processes 2"))  # eight load torch for a minute
    parsed = cli.parser().parse_args(given)
    if parsed.dry_run or parsed.preset == "cpu":  # the cpu preset is too much for a test
        assert cli.main([*given, "--dry-run"]) == cli.DONE
        assert f"into {parsed.out}" in capsys.readouterr().out
        assert not Path(parsed.out).exists()
        return
    # The plain command has all four defences.
    fewer = [*LESS, *(['defences=["point","region"]'] if command and not parsed.strict else [])]
    smaller = [item for text in fewer for item in ("--set", text)]
    code = cli.main([*given, *smaller, "--only", "table3", "--quiet"])
    assert code == (
        cli.UNTRUSTED if parsed.strict else cli.DONE
    )  # FGSM on a network of three epochs proves nothing
    table = Path(parsed.out, "tables", "table3.md").read_text()
    assert "Region-based" in table
    assert ("| my own |" in table) == (parsed.defence is not None)
