"""Our attacks beside those of other libraries and the literal loops: success, noise, seconds, queries.

    python bench/attacks.py [--dataset auto|mnist|digits] [--model mnist_cnn.safetensors] [--examples 10]
                            [--untargeted 100] [--literal 6] [--only cw-l2,"jsma art"] [--threads 1] [--fresh]

`--vote`: the attacks that know a vote, on one, see bench/vote_attacks.py.

Needs `pip install -e '.[peers]'`; a library that is missing or does not import is reported as such. Every row runs
on the same network, images and targets (all wrong classes of each example); the literal loops, one example at a
time, on --literal of them, spread over all. Rows are kept in bench/results/attacks-<device>.json as soon as they
are measured, each with its commit and the load of the machine; a run that was interrupted goes on where it stopped, as
long as network and examples are the same. Rows of rcfast from another commit are measured anew, the others' are kept.
Success is judged here, for everybody: the network says the target (DeepFool: not the label) for the result clipped to
[0,1].
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import (
    DATASETS,
    RESULTS,
    commit,
    dataset_and_model,
    header,
    slug,
    synchronise,
    table,
    without_folders,
    write,
)
from torch import Tensor, nn

from rcfast.attacks import CWL0, CWL2, JSMA, Attack, AttackResult, CWLinf, DeepFool
from rcfast.hardware import full_float32

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
# Examples at once, for the libraries that let the caller choose; larger ones were slower on a CPU.
CHUNK = 128
MOVED = 1e-6  # a coordinate that moved by more has changed: libraries round in other places
PEERS = ("foolbox", "adversarial-robustness-toolbox", "torchattacks", "advertorch")


@dataclass
class Task:
    """Rows to attack: x [n,C,H,W], the label that the network gives and the target wanted [n]."""

    model: nn.Module
    x: Tensor
    label: Tensor
    target: Tensor

    def part(self, rows: list[int]) -> Task:
        return Task(self.model, self.x[rows], self.label[rows], self.target[rows])

    def foolbox(self):  # type: ignore[no-untyped-def]
        import foolbox

        return foolbox.PyTorchModel(self.model, bounds=(0, 1), device=self.x.device)

    def art(self):  # type: ignore[no-untyped-def]
        from art.estimators.classification import PyTorchClassifier

        with torch.no_grad():
            classes = self.model(self.x[:1]).shape[1]
        return PyTorchClassifier(
            self.model,
            nn.CrossEntropyLoss(),
            tuple(self.x.shape[1:]),
            classes,
            clip_values=(0.0, 1.0),
            device_type="gpu" if self.x.is_cuda else "cpu",
        )

    def one_hot(self) -> np.ndarray:
        with torch.no_grad():
            classes = self.model(self.x[:1]).shape[1]
        return np.eye(classes, dtype=np.float32)[self.target.cpu().numpy()]

    def numpy(self) -> np.ndarray:
        return self.x.cpu().numpy()


def ours(attack: Attack, labels: str = "target") -> Callable[[Task], AttackResult]:
    return lambda t: attack(t.model, t.x, getattr(t, labels))


def foolbox_cw(t: Task) -> Tensor:
    import foolbox

    attack = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=9, steps=1000)
    parts = zip(t.x.split(CHUNK), t.target.split(CHUNK), strict=True)
    wanted = foolbox.criteria.TargetedMisclassification
    return torch.cat([attack(t.foolbox(), x, wanted(y), epsilons=None)[1] for x, y in parts])


def foolbox_deepfool(t: Task) -> Tensor:
    import foolbox

    attack = foolbox.attacks.L2DeepFoolAttack(steps=50, overshoot=0.02)
    parts = zip(t.x.split(CHUNK), t.label.split(CHUNK), strict=True)
    return torch.cat([attack(t.foolbox(), x, y, epsilons=None)[1] for x, y in parts])


def art_deepfool(t: Task) -> Tensor:
    from art.attacks.evasion import DeepFool as Peer

    peer = Peer(t.art(), max_iter=50, epsilon=0.02, nb_grads=10, batch_size=CHUNK, verbose=False)
    return torch.from_numpy(peer.generate(t.numpy()))


def art_jsma(t: Task) -> Tensor:
    from art.attacks.evasion import SaliencyMapMethod

    peer = SaliencyMapMethod(t.art(), theta=1.0, gamma=1.0, batch_size=CHUNK, verbose=False)
    return torch.from_numpy(peer.generate(t.numpy(), t.one_hot()))


def art_cw(t: Task) -> Tensor:
    from art.attacks.evasion import CarliniL2Method

    peer = CarliniL2Method(
        t.art(),
        targeted=True,
        binary_search_steps=9,
        max_iter=100,
        initial_const=1e-3,
        batch_size=CHUNK,
        verbose=False,
    )
    return torch.from_numpy(peer.generate(t.numpy(), t.one_hot()))


def torchattacks_row(name: str, **arguments: float) -> Callable[[Task], Tensor]:
    def run(t: Task) -> Tensor:
        import torchattacks

        peer = getattr(torchattacks, name)(t.model, **arguments)
        peer.set_mode_targeted_by_label(quiet=True)
        parts = zip(t.x.split(CHUNK), t.target.split(CHUNK), strict=True)
        return torch.cat([peer(x, y).detach() for x, y in parts])

    return run


def advertorch_cw(t: Task) -> Tensor:
    from advertorch.attacks import CarliniWagnerL2Attack

    with torch.no_grad():
        classes = t.model(t.x[:1]).shape[1]
    peer = CarliniWagnerL2Attack(t.model, classes, targeted=True, binary_search_steps=9, max_iterations=1000)
    return peer.perturb(t.x, t.target)


def literal(name: str) -> Callable[[Task], Tensor]:
    def run(t: Task) -> Tensor:
        from oracles import carlini_wagner

        loop = getattr(carlini_wagner, name)
        found = [loop(t.model, t.x[i : i + 1], int(t.target[i])) for i in range(len(t.x))]
        return torch.cat([t.x[i : i + 1] if a is None else a for i, a in enumerate(found)])

    return run


@dataclass(frozen=True)
class Row:
    group: str
    name: str
    norm: float
    run: Callable[[Task], Tensor | AttackResult]
    needs: tuple[str, ...] = ()  # imported before the clock starts
    slow: bool = False  # one example at a time: measured on --literal rows only

    @property
    def key(self) -> str:
        return f"{self.group} {self.name}"


INF = float("inf")
ART = ("art.attacks.evasion", "art.estimators.classification")
LOOPS = ("oracles.carlini_wagner",)
ROWS = (
    Row("deepfool", "rcfast", 2, ours(DeepFool(), "label")),
    Row("deepfool", "foolbox", 2, foolbox_deepfool, ("foolbox",)),
    Row("deepfool", "art", 2, art_deepfool, ART),
    Row("jsma", "rcfast", 0, ours(JSMA())),
    Row("jsma", "rcfast prune", 0, ours(JSMA(prune=True))),
    Row("jsma", "art", 0, art_jsma, ART),
    Row("jsma", "torchattacks", 0, torchattacks_row("JSMA", theta=1.0, gamma=1.0), ("torchattacks",)),
    Row("cw-l2", "rcfast", 2, ours(CWL2())),
    Row("cw-l2", "rcfast fast", 2, ours(CWL2.fast())),
    Row("cw-l2", "foolbox", 2, foolbox_cw, ("foolbox",)),
    Row("cw-l2", "torchattacks", 2, torchattacks_row("CW", c=1, steps=1000, lr=0.01), ("torchattacks",)),
    Row("cw-l2", "art (100 iterations)", 2, art_cw, ART),
    Row("cw-l2", "advertorch", 2, advertorch_cw, ("advertorch.attacks",)),
    Row("cw-linf", "rcfast", INF, ours(CWLinf())),
    Row("cw-linf", "rcfast fast", INF, ours(CWLinf.fast())),
    Row("cw-linf", "literal", INF, literal("cw_linf"), LOOPS, slow=True),
    Row("cw-l0", "rcfast", 0, ours(CWL0())),
    Row("cw-l0", "rcfast fast", 0, ours(CWL0.fast())),
    Row("cw-l0", "literal", 0, literal("cw_l0"), LOOPS, slow=True),
)


def measure(row: Row, task: Task, examples: list[int]) -> dict[str, Any]:
    """One row of the table, on these examples of the task; the error in words where a library does not run."""
    task = task.part(examples)
    asked = [0]
    # Ours count for themselves: a model with a hook is not run on our own convolutions.
    hook = (
        None
        if row.name.startswith("rcfast")
        else task.model.register_forward_hook(
            lambda m, args, out: asked.__setitem__(0, asked[0] + len(args[0]))
        )
    )
    try:
        for name in row.needs:
            importlib.import_module(name)
        began = time.perf_counter()
        found = row.run(task)
        synchronise(task.x.device)
        seconds = time.perf_counter() - began
    except Exception as error:
        return {"error": without_folders(f"{type(error).__name__}: {error}")[:300]}
    finally:
        if hook is not None:
            hook.remove()
    if isinstance(found, AttackResult):
        asked, found = [int(found.queries.sum())], found.adversarial
    adversarial = found.detach().to(task.x).clamp(0, 1)
    with torch.no_grad(), full_float32():
        said = torch.cat([task.model(part).argmax(1) for part in adversarial.split(CHUNK)])
    success = (said != task.label) if row.group == "deepfool" else (said == task.target)
    delta = (adversarial - task.x).flatten(1)
    noise = {0: (delta.abs() > MOVED).sum(1).float(), 2: delta.norm(dim=1)}.get(row.norm, delta.abs().amax(1))
    return {
        "n": len(success),
        "success": int(success.sum()),
        "noise": float(noise[success].mean()) if success.any() else None,
        "seconds_per_example": seconds / len(success),
        "queries_per_example": asked[0] / len(success),
        "load": os.getloadavg()[0],
        "commit": commit(),
        "examples": examples,
        "noise_each": [round(float(v), 6) if s else None for v, s in zip(noise, success, strict=True)],
    }


def make_tasks(args: argparse.Namespace) -> tuple[Task, Task, str, str]:
    """The targeted task, the untargeted one, the data set's name, and what all depends on, as a key."""
    device = torch.device(args.device)
    dataset, model, name = dataset_and_model(args.dataset, args.root, args.model, device)
    order = torch.randperm(len(dataset.test.y), generator=torch.Generator().manual_seed(args.seed))[:1000]
    x, y = dataset.test.x[order].to(device), dataset.test.y[order].to(device)
    with torch.no_grad():
        logits = model(x)
    right = (logits.argmax(1) == y).nonzero().flatten()[: max(args.examples, args.untargeted)]
    x, y = x[right], y[right]
    untargeted = Task(model, x[: args.untargeted], y[: args.untargeted], y[: args.untargeted])
    wrong = torch.arange(logits.shape[1], device=device) != y[: args.examples, None]
    rows, targets = wrong.nonzero().T
    content = hashlib.sha256()
    for tensor in (x, *model.state_dict().values()):
        content.update(tensor.cpu().contiguous().numpy().tobytes())
    content.update(f"{args.examples} {args.untargeted} {args.literal} {args.threads}".encode())
    return Task(model, x[rows], y[rows], targets), untargeted, name, content.hexdigest()


def peers() -> dict[str, str | None]:
    found: dict[str, str | None] = dict.fromkeys(PEERS)
    for name in PEERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


# (group, ours, the peer, noise of ours at most this share of the peer's, times faster at least)
BARS = (
    ("cw-l2", "rcfast", "foolbox", 1.01, 5.0),
    ("deepfool", "rcfast", "foolbox", 1.0, 2.0),
    ("jsma", "rcfast", "art", 1.0, 5.0),
    ("jsma", "rcfast prune", "art", 1.0, 3.0),
    ("cw-linf", "rcfast", "literal", 1.01, 30.0),
    ("cw-l0", "rcfast", "literal", 1.01, 30.0),
)


def noise_on_the_same(a: dict[str, Any], b: dict[str, Any]) -> tuple[float, int] | None:
    """Mean noise of a over that of b on the examples on which both succeed, and how many these are."""
    of_a, of_b = (dict(zip(r["examples"], r["noise_each"], strict=True)) for r in (a, b))
    both = [i for i in of_b if of_b[i] is not None and of_a.get(i) is not None]
    total = sum(of_b[i] for i in both)
    return (sum(of_a[i] for i in both) / total, len(both)) if total else None


def bars(rows: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Every bar, what was measured, and whether it is met; those of which a row is missing are left out."""
    found = []
    for group, name, peer, most_noise, least_speed in BARS:
        a, b = rows.get(f"{group} {name}"), rows.get(f"{group} {peer}")
        if not a or not b or "error" in a or "error" in b:
            continue
        what = f"{group}, {name}"
        won, least = a["success"] / a["n"], b["success"] / b["n"] if group == "jsma" else 1.0
        found.append([f"{what}: success", f"{won:.1%}", f"at least {least:.1%}", won >= least])
        same = noise_on_the_same(a, b)
        ratio, count = same or (INF, 0)
        measured = f"{ratio:.4f} on {count}"
        found.append([f"{what}: noise over {peer}", measured, f"at most {most_noise:g}", ratio <= most_noise])
        speed = b["seconds_per_example"] / a["seconds_per_example"]
        measured = f"{speed:.1f} times ({a['n']} and {b['n']})"
        bar = f"at least {least_speed:g} times"
        found.append([f"{what}: faster than {peer}", measured, bar, speed >= least_speed])
    return [[*cells, "met" if met else "MISSED"] for *cells, met in found]


def cells(group: str, name: str, r: dict[str, Any]) -> list[str]:
    if "error" in r:
        return [group, name, r["error"][:70], "", "", "", ""]
    noise = "-" if r["noise"] is None else f"{r['noise']:.4g}"
    speed = f"{r['seconds_per_example']:.4f}"
    asked = f"{r['queries_per_example']:.0f}"
    return [group, name, f"{r['success']} / {r['n']}", noise, speed, asked, f"{r['load']:.1f}"]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", default="auto", help=DATASETS)
    add("--root", type=Path, help="folder of the data sets (default: RCFAST_DATA)")
    add("--model", type=Path, help="checkpoint of rcfast.training (default: trained once, kept in the cache)")
    add("--examples", type=int, default=10, help="images attacked towards every class (default: %(default)s)")
    add("--untargeted", type=int, default=100, help="images for DeepFool (default: %(default)s)")
    add("--literal", type=int, default=6, help="rows for the literal loops (default: %(default)s)")
    add("--only", default="", help="groups or 'group name', separated by commas")
    add("--device", default="cpu")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--seed", type=int, default=0, help="of the choice of images")
    add("--fresh", action="store_true", help="measure anew what is there")
    add("--out", type=Path, help="result file (default: bench/results/attacks-<device>.json)")
    add("--vote", action="store_true", help="attacks on the vote, see bench/vote_attacks.py")
    add("--r", type=float, help="with --vote: of the vote, see bench/vote_attacks.py")
    add(
        "--targets",
        type=int,
        default=0,
        help="with --vote: classes an image is attacked towards, 0: all wrong ones",
    )
    add("--peer", type=Path, help="with --vote: a checkout of AutoAttack")
    args = parser.parse_args()
    if args.vote:
        if args.device != "cpu":
            parser.error(f"--vote measures on a CPU, got --device {args.device}")
        import vote_attacks

        return vote_attacks.main(args)
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    targeted, untargeted, dataset, key = make_tasks(args)
    path = args.out or RESULTS / f"attacks-{slug(device)}.json"
    before = json.loads(path.read_text()) if path.is_file() and not args.fresh else {}
    rows: dict[str, dict[str, Any]] = before["rows"] if before.get("key") == key else {}
    print(f"{slug(device)}, {dataset}, {len(targeted.x)} targeted examples", flush=True)
    wanted = [w.strip() for w in args.only.split(",") if w.strip()]
    for row in ROWS:
        if wanted and row.group not in wanted and row.key not in wanted:
            continue
        if row.key in rows and (not row.name.startswith("rcfast") or rows[row.key].get("commit") == commit()):
            continue
        task = untargeted if row.group == "deepfool" else targeted
        count = min(args.literal, len(task.x)) if row.slow else len(task.x)
        examples = torch.linspace(0, len(task.x) - 1, count).round().long().tolist()
        rows[row.key] = measure(row, task, examples)
        rows = {r.key: rows[r.key] for r in ROWS if r.key in rows}
        report = {**header(device), "peers": peers(), "dataset": dataset, "key": key}
        write(path, {**report, "rows": rows, "bars": bars(rows)})
        print("  ".join(cells(row.group, row.name, rows[row.key])), flush=True)
    columns = ["attack", "by", "success", "noise", "s/example", "queries", "load"]
    body = [cells(r.group, r.name, rows[r.key]) for r in ROWS if r.key in rows]
    print("\n" + table("Attacks", columns, body))
    print(table("Bars", ["what", "measured", "bar", ""], bars(rows)))
    print(f"in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
