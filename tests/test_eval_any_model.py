"""The evaluation of networks that people bring, and what their results are made from."""

import hashlib
import json
import sys
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rcfast import data
from rcfast.eval import cli
from rcfast.eval.run.defences import Network, weights_digest
from rcfast.eval.run.modules import code_digest, load_factory
from rcfast.eval.run.voter import Voter
from rcfast.running import evaluating

NETS = '''
import torch
from torch import nn


class Net(nn.Module):
    """Views, works in place, answers with a dict."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(1, 8, 3), nn.Linear(288, 10)

    def forward(self, x):
        x.sub_(0.5)
        return {"logits": self.last(self.first(x).relu().view(len(x), -1)), "mean": x.mean()}


def odd():
    return Net()


def half():
    return Net().bfloat16()


def double():
    return Net().double()
'''
SMALL = [
    'attacks.names=["T-FGSM","DeepFool"]',
    'defences=["point","region"]',
    "protocol.examples=2",
    "protocol.targets=1",
    "model.train=true",
    "train.point.epochs=2",
    "vote.m=20",
    "vote.seeds=[0]",
    "length.step=0.25",
    "length.m=20",
]


@pytest.fixture(autouse=True)
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The working folder is the test's; its modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file is None or Path(file).is_relative_to(tmp_path):
            del sys.modules[name]


@pytest.mark.parametrize("factory", ["odd", "half", "double"])
def test_a_network_of_any_kind_is_trained_attacked_and_voted_on(factory: str, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    settings = [word for setting in SMALL for word in ("--set", setting)]
    command = ["--model", f"nets:{factory}", "--only", "table3,table4,table5", "--out", "out", "--quiet"]
    assert cli.main([*command, *settings]) == cli.DONE
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    accuracy = {row["defence"]: row["correct"] / row["n"] for row in results["accuracy"]}
    assert accuracy["point"] > 0.6
    assert accuracy["region"] > 0.6


# ---- what results are made from


def write(tmp_path: Path, **files: str) -> None:
    for name, text in files.items():
        path = tmp_path / (name.replace("__", "/") + ".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


FILES = {
    "mine": "from own_parts import layers\nimport numpy\n\n\ndef make():\n    from own_late import width\n",
    "own_parts__init": "",
    "own_parts__layers": "from . import deep\nfrom .deep import depth\n",
    "own_parts__deep": "depth = 3\n",
    "own_late": "width = 5\n",
    "own_stranger": "nobody = 'imports this'\n",
}


def digest(tmp_path: Path, **changes: str) -> str:
    files = {**FILES, **changes}
    write(tmp_path, **{name: text for name, text in files.items() if name != "own_parts__init"})
    (tmp_path / "own_parts" / "__init__.py").write_text(files["own_parts__init"])
    return code_digest(load_factory("mine:make", option="--model"))


def test_all_code_that_a_factory_imports_is_part_of_its_key(tmp_path: Path) -> None:
    base = digest(tmp_path)
    assert digest(tmp_path) == base
    assert digest(tmp_path, own_stranger="changed = 1\n") == base
    changed = [
        digest(tmp_path, **{name: FILES[name] + "\n# changed\n"}) for name in FILES if name != "own_stranger"
    ]
    assert len({base, *changed}) == 6


def test_installed_packages_are_part_of_a_key_by_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import metadata

    base, real = digest(tmp_path), metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.0" if name == "numpy" else real(name))
    assert digest(tmp_path) != base


def test_a_compiled_module_of_ones_own_is_part_of_a_key(tmp_path: Path) -> None:
    file = tmp_path / f"own_fast{EXTENSION_SUFFIXES[0]}"
    keys = set()
    for content in (b"one", b"two", b"two"):
        file.write_bytes(content)
        keys.add(digest(tmp_path, mine=FILES["mine"] + "    import own_fast\n"))
    assert len(keys) == 2


@pytest.mark.parametrize("folder", ["site-packages", "dist-packages"])
def test_what_is_installed_elsewhere_is_known_by_its_version(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "lib" / folder
    elsewhere.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(elsewhere))
    keys = set()
    for content in ("one = 1\n", "two = 22\n"):
        (elsewhere / "own_installed.py").write_text(content)
        keys.add(digest(tmp_path, mine=FILES["mine"] + "    import own_installed\n"))
    assert len(keys) == 1


class Scaled(nn.Module):
    """What no parameter and no buffer says."""

    def __init__(self, **held: Any) -> None:
        super().__init__()
        self.net = nn.Linear(2, 2)
        nn.init.ones_(self.net.weight)
        nn.init.zeros_(self.net.bias)
        vars(self).update(held)


def test_networks_are_told_apart_by_what_is_set_in_their_modules() -> None:
    held: list[dict[str, Any]] = [
        {},
        {"scale": 1.0},
        {"scale": 2.0},
        {"_scale": 2.0},
        {"mean": torch.zeros(2)},
        {"mean": torch.ones(2)},
        {"mean": torch.ones(2).to_sparse()},
        {"sizes": [2, (3, 4)]},
        {"sizes": [2, (3, 5)]},
        {"index": torch.tensor(2**24)},
        {"index": torch.tensor(2**24 + 1)},
        {"turn": torch.tensor([1j])},
        {"turn": torch.tensor([2j])},
    ]
    keys = [weights_digest(Scaled(**one)) for one in held]
    same = {5, 6}  # sparse or not, the values count
    assert len(set(keys)) == len(held) - len(same) + 1
    assert [weights_digest(Scaled(**one)) for one in held] == keys
    assert weights_digest(Scaled(scale=1.0).train()) == weights_digest(Scaled(scale=1.0).eval())
    assert weights_digest(nn.Sequential(nn.ReLU())) != weights_digest(nn.Sequential(nn.Tanh()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_quantised_networks_are_told_apart() -> None:
    def quantised(value: float) -> nn.Module:
        net = nn.Sequential(nn.Linear(4, 2)).eval()
        nn.init.constant_(net[0].weight, value)
        nn.init.zeros_(net[0].bias)
        return torch.ao.quantization.quantize_dynamic(net, {nn.Linear})

    assert weights_digest(quantised(1.0)) == weights_digest(quantised(1.0))
    assert weights_digest(quantised(1.0)) != weights_digest(quantised(2.0))


READS = """
import json
from pathlib import Path
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = json.loads(Path("own.json").read_text())["scale"]
        self.net = nn.Linear(64, 10)

    def forward(self, x):
        return self.net(self.scale * x.flatten(1))
"""


def test_a_network_is_trained_anew_where_a_file_that_it_reads_has_changed(tmp_path: Path) -> None:
    write(tmp_path, reads=READS)
    settings = [word for setting in SMALL for word in ("--set", setting)]
    command = [
        "--model",
        "reads:Net",
        "--only",
        "table3",
        "--set",
        'defences=["point"]',
        "--out",
        "out",
        "--quiet",
    ]
    reused = []
    for scale in (1, 1, 0):
        (tmp_path / "own.json").write_text(json.dumps({"scale": scale}))
        assert cli.main([*settings, *command]) == cli.DONE
        times = json.loads((tmp_path / "out" / "timings.json").read_text())
        reused.append(next(stage["reused"] for stage in times if stage["name"] == "train"))
    assert reused == [False, True, False]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["accuracy"][0]["correct"] / results["accuracy"][0]["n"] < 0.3  # it sees nothing


def test_weights_are_told_apart_in_every_precision() -> None:
    net = nn.Linear(2, 2).double()
    before = weights_digest(net)
    with torch.no_grad():
        net.weight += 1e-12
    assert weights_digest(net) != before
    single = nn.Linear(2, 2)
    assert weights_digest(single.bfloat16()) == weights_digest(single)  # the same values


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_frozen_networks_are_told_apart_by_their_code() -> None:
    def frozen(value: float) -> Any:
        net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
        nn.init.constant_(net[1].weight, value)
        nn.init.zeros_(net[1].bias)
        return torch.jit.freeze(torch.jit.trace(net, torch.rand(2, 4)))

    assert weights_digest(frozen(1.0)) == weights_digest(frozen(1.0))
    assert weights_digest(frozen(1.0)) != weights_digest(frozen(2.0))


# ---- how it is run


def test_the_network_of_a_run_may_work_in_place_and_view(tmp_path: Path) -> None:
    write(tmp_path, nets=NETS)
    net = load_factory("nets:odd", option="--model")()
    x = data.load("digits").test.x[:20]
    kept = hashlib.sha256(x.numpy().tobytes()).hexdigest()
    with evaluating(net):
        expected = net(x.clone())["logits"].argmax(1)
    assert torch.equal(Network("point", net, "", x[:1]).labels(x), expected)
    for dtype in ("", "float32", "bfloat16"):
        labels = Voter(net, dtype)(x).argmax(1)
        assert (labels == expected).float().mean() > 0.7
    assert hashlib.sha256(x.numpy().tobytes()).hexdigest() == kept
