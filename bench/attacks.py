"""Our attacks beside those of other libraries and the literal loops: success, noise, seconds, queries.

    python bench/attacks.py --root DATA --model mnist_cnn.safetensors [--dataset mnist] [--examples 10]
                            [--literal 2] [--only cw-l2,deepfool] [--fresh]

Needs `pip install -e '.[peers]'`; a library that is missing or does not import is reported as such. Every row runs
on the same network, images and targets (all wrong classes of each example). Rows are kept in
bench/results/attacks-<device>.json as soon as they are measured; a run that was interrupted goes on where it
stopped, as long as network, examples and code are the same. Success is judged here, for everybody: the
network says the target (DeepFool: not the label) for the result clipped to [0,1].
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import rcfast.data
from rcfast.attacks import CWL0, CWL2, JSMA, CWLinf, DeepFool
from rcfast.training import load_model

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
CHUNK = (
    128  # examples at once, for the libraries that let the caller choose; larger ones were slower on a CPU
)
MOVED = 1e-6  # a coordinate that moved by more has changed: libraries round in other places


@dataclass
class Task:
    """Rows to attack: x [n,C,H,W], the label that the network gives and the target wanted [n]."""

    model: nn.Module
    x: Tensor
    label: Tensor
    target: Tensor

    def head(self, count: int) -> Task:
        """count rows, spread over all of them."""
        rows = torch.linspace(0, len(self.x) - 1, count).round().long()
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


def ours(attack, labels: str = "target"):  # type: ignore[no-untyped-def]
    return lambda t: attack(t.model, t.x, getattr(t, labels)).adversarial


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
    run: Callable[[Task], Tensor]
    slow: bool = False  # one example at a time: measured on --literal rows only


ROWS = (
    Row("deepfool", "rcfast", 2, ours(DeepFool(), "label")),
    Row("deepfool", "foolbox", 2, foolbox_deepfool),
    Row("deepfool", "art", 2, art_deepfool),
    Row("jsma", "rcfast", 0, ours(JSMA())),
    Row("jsma", "art", 0, art_jsma),
    Row("jsma", "torchattacks", 0, torchattacks_row("JSMA", theta=1.0, gamma=1.0)),
    Row("cw-l2", "rcfast", 2, ours(CWL2())),
    Row("cw-l2", "rcfast fast", 2, ours(CWL2.fast())),
    Row("cw-l2", "foolbox", 2, foolbox_cw),
    Row("cw-l2", "torchattacks", 2, torchattacks_row("CW", c=1, steps=1000, lr=0.01)),
    Row("cw-l2", "art (100 iterations)", 2, art_cw),
    Row("cw-l2", "advertorch", 2, advertorch_cw),
    Row("cw-linf", "rcfast", float("inf"), ours(CWLinf())),
    Row("cw-linf", "rcfast fast", float("inf"), ours(CWLinf.fast())),
    Row("cw-linf", "rcfast, literal's examples", float("inf"), ours(CWLinf()), slow=True),
    Row("cw-linf", "literal", float("inf"), literal("cw_linf"), slow=True),
    Row("cw-l0", "rcfast", 0, ours(CWL0())),
    Row("cw-l0", "rcfast fast", 0, ours(CWL0.fast())),
    Row("cw-l0", "rcfast, literal's examples", 0, ours(CWL0()), slow=True),
    Row("cw-l0", "literal", 0, literal("cw_l0"), slow=True),
)


def measure(row: Row, task: Task) -> dict:
    """One row of the table; the error in words where a library does not run."""
    asked = [0]
    hook = task.model.register_forward_hook(
        lambda m, args, out: asked.__setitem__(0, asked[0] + len(args[0]))
    )
    began = time.perf_counter()
    try:
        adversarial = row.run(task)
        if task.x.is_cuda:
            torch.cuda.synchronize()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    finally:
        hook.remove()
    seconds = time.perf_counter() - began
    adversarial = adversarial.detach().to(task.x).clamp(0, 1)
    with torch.no_grad():
        said = torch.cat([task.model(part).argmax(1) for part in adversarial.split(CHUNK)])
    success = (said != task.label) if row.group == "deepfool" else (said == task.target)
    delta = (adversarial - task.x).flatten(1)
    noise = {0: (delta.abs() > MOVED).sum(1).float(), 2: delta.norm(dim=1)}.get(row.norm, delta.abs().amax(1))
    return {
        "n": len(success),
        "success": int(success.sum()),
        "noise": float(noise[success].mean()) if success.any() else None,
        "noise_each": [round(float(v), 6) if s else None for v, s in zip(noise, success, strict=True)],
        "seconds_per_example": seconds / len(success),
        "queries_per_example": asked[0] / len(success),
        "load": os.getloadavg()[0],
    }


def make_tasks(args: argparse.Namespace) -> tuple[Task, Task, str]:
    """The targeted task, the untargeted one, and what both depend on, as a key."""
    model, _ = load_model(args.model)
    model = model.eval().to(args.device)
    test = rcfast.data.load(args.dataset, args.root).test
    order = torch.randperm(len(test.y), generator=torch.Generator().manual_seed(args.seed))[:1000]
    x, y = test.x[order].to(args.device), test.y[order].to(args.device)
    with torch.no_grad():
        logits = model(x)
    right = (logits.argmax(1) == y).nonzero().flatten()[: args.examples]
    x, y = x[right], y[right]
    rows, targets = (torch.arange(logits.shape[1], device=y.device) != y[:, None]).nonzero().T
    content = hashlib.sha256()
    for tensor in (x, *model.state_dict().values()):
        content.update(tensor.cpu().contiguous().numpy().tobytes())
    for path in sorted((ROOT / "rcfast" / "attacks").glob("*.py")):
        content.update(path.read_bytes())
    content.update(f"{args.literal} {args.threads}".encode())
    return Task(model, x[rows], y[rows], targets), Task(model, x, y, y), content.hexdigest()


def environment(args: argparse.Namespace) -> dict:
    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    packages = ("torch", "foolbox", "adversarial-robustness-toolbox", "torchattacks", "advertorch")
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [s for s in Path("/proc/cpuinfo").read_text().splitlines() if s.startswith("model name")]
        processor = names[0].split(":")[1].strip() if names else processor
    return {
        "command": " ".join(["python", "bench/attacks.py", *sys.argv[1:]]),
        "commit": commit.strip(),
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": args.threads,
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "python": platform.python_version(),
        "versions": {p: version(p) for p in packages},
        "date": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }


def write(path: Path, report: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(report, indent=1) + "\n")
    os.replace(beside, path)


def show(rows: dict[str, dict]) -> None:
    print(f"{'attack':9} {'by':28} {'success':>10} {'noise':>8} {'s/example':>10} {'queries':>9} {'load':>5}")
    for key, r in rows.items():
        group, name = key.split(" ", 1)
        if "error" in r:
            print(f"{group:9} {name:28} {r['error'][:70]}")
            continue
        noise = "-" if r["noise"] is None else f"{r['noise']:.4g}"
        print(
            f"{group:9} {name:28} {r['success']:>4} / {r['n']:<4}{noise:>8} {r['seconds_per_example']:>10.4f}"
            f" {r['queries_per_example']:>9.0f} {r['load']:>5.1f}"
        )


# (group, ours, the peer, noise of ours at most this share of the peer's, times faster at least)
BARS = (
    ("cw-l2", "rcfast", "foolbox", 1.01, 5.0),
    ("deepfool", "rcfast", "foolbox", 1.0, 1.5),
    ("jsma", "rcfast", "art", 1.0, 3.0),
    ("cw-linf", "rcfast, literal's examples", "literal", 1.01, None),
    ("cw-linf", "rcfast", "literal", None, 30.0),
    ("cw-l0", "rcfast, literal's examples", "literal", 1.01, None),
    ("cw-l0", "rcfast", "literal", None, 30.0),
)


def judge(rows: dict[str, dict]) -> list[dict]:
    """Every bar with what was measured; those of which a row is missing are left out."""
    verdicts = []
    for group, name, peer, most_noise, least_speed in BARS:
        a, b = rows.get(f"{group} {name}"), rows.get(f"{group} {peer}")
        if not a or not b or "error" in a or "error" in b:
            continue
        noise = a["noise"] / b["noise"] if a["noise"] is not None and b["noise"] else None
        speed = b["seconds_per_example"] / a["seconds_per_example"]
        met = a["success"] / a["n"] >= (b["success"] / b["n"] if group == "jsma" else 1.0)
        met &= most_noise is None or (noise is not None and noise <= most_noise)
        met &= least_speed is None or speed >= least_speed
        bar = {"group": group, "ours": name, "peer": peer, "noise_ratio": noise, "speed_ratio": speed}
        verdicts.append(bar | {"noise_bar": most_noise, "speed_bar": least_speed, "met": bool(met)})
    return verdicts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--root", help="folder of the data set")
    parser.add_argument("--model", required=True, help="network saved by rcfast.training.save_model")
    parser.add_argument(
        "--examples", type=int, default=10, help="images; each is attacked towards all wrong classes"
    )
    parser.add_argument("--literal", type=int, default=2, help="rows for the literal loops")
    parser.add_argument("--only", default="", help="groups or 'group name', separated by commas")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="measure anew what is there")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    targeted, untargeted, key = make_tasks(args)
    out = args.out or ROOT / "bench" / "results" / f"attacks-{args.device}.json"
    report = json.loads(out.read_text()) if out.exists() and not args.fresh else {}
    if report.get("key") != key:
        report = {"key": key, "rows": {}}
    wanted = [w.strip() for w in args.only.split(",") if w.strip()]
    for row in ROWS:
        name = f"{row.group} {row.name}"
        if name in report["rows"] or (wanted and row.group not in wanted and name not in wanted):
            continue
        task = untargeted if row.group == "deepfool" else targeted
        report["rows"][name] = measure(row, task.head(min(args.literal, len(task.x))) if row.slow else task)
        order = [f"{r.group} {r.name}" for r in ROWS]
        report["rows"] = {k: report["rows"][k] for k in order if k in report["rows"]}
        write(out, report | {"environment": environment(args), "bars": judge(report["rows"])})
        show({name: report["rows"][name]})
    print()
    show(report["rows"])
    for bar in judge(report["rows"]):
        noise = "-" if bar["noise_ratio"] is None else f"{bar['noise_ratio']:.4f}"
        print(
            f"{bar['group']}: {bar['ours']} against {bar['peer']}: noise ratio {noise} (bar {bar['noise_bar']}), "
            f"{bar['speed_ratio']:.1f} times faster (bar {bar['speed_bar']}): {'met' if bar['met'] else 'MISSED'}"
        )


if __name__ == "__main__":
    main()
