"""Attacks on the vote in the evaluation: planned, judged by votes that they never saw, and spoken of first."""

import csv
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rcfast import hardware
from rcfast.attacks import RegionCW, judge
from rcfast.eval import cli
from rcfast.eval.evaluation import plan, prepare
from rcfast.eval.outputs import get, transfer, vote_rows
from rcfast.eval.outputs.vote_rows import Judged
from rcfast.eval.report.verdict import headline
from rcfast.eval.run import vote_attack
from rcfast.eval.run.attack import Case, parts
from rcfast.eval.run.config import ConfigError
from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import Network, region_classifier, region_judge
from rcfast.eval.run.examples import examples
from rcfast.eval.run.inputs import resolved
from rcfast.eval.run.judges import judges
from rcfast.eval.run.labels import AdversarialLabels, BenignLabels
from rcfast.eval.run.length import length
from rcfast.eval.run.networks import network
from rcfast.eval.run.progress import Progress
from rcfast.eval.run.settings import build
from rcfast.eval.run.store import Store
from rcfast.eval.run.vote_attack import JudgedExamples, VoteAttack

NAMES = ("vote_attacks", "vote_noise", "vote_images", "table6", "worst")
SMALL = [
    *("protocol.examples=2", "protocol.targets=3", "protocol.block=2", "vote.m=100", "length.r=0.1"),
    *("train.point.epochs=4", 'defences=["point","region"]', 'attacks.names=["T-CW-L2","T-FGSM"]'),
    *("attacks.confidences=[0, 10]", "attacks.alphas=[0, 1]", "attacks.settings.T-FGSM={steps=8, refine=1}"),
    "attacks.settings.T-CW-L2={searches=2, iterations=20, c0=1.0, rate=0.1}",
    "attacks.settings.T-RegionCW={steps=25, points=4, votes=200}",
]
if importlib.util.find_spec("foolbox"):
    own = "foolbox:HopSkipJumpAttack"
    SMALL += [f'attacks.vote=["T-RegionCW","{own}"]', f"attacks.settings.{own}={{queries=60, steps=2}}"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    given = [item for text in SMALL for item in ("--set", text)]
    assert cli.main(["--out", str(out), "--only", ",".join(NAMES), "--quiet", *given]) == cli.DONE
    return out


@pytest.fixture(scope="module")
def results(folder: Path) -> Any:
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def ctx(folder: Path) -> Context:
    chosen = [get(name) for name in NAMES]
    store = Store(folder, readonly=True)
    found = prepare(build("quick", settings=SMALL), folder, chosen, store, Progress("quiet"))
    found.sketch = False
    return found


@pytest.mark.slow
def test_the_vote_counts_as_attacked_itself(results: Any, folder: Path) -> None:
    assert results["direct"]["region"][0] == "T-RegionCW on region"
    worst = {row["defence"]: row for row in results["worst"]}
    assert "T-RegionCW on region" in worst["region"]["on_itself"]
    said = headline(results)
    assert said.startswith("Voting over a region is attacked itself: T-")
    assert "transfer alone" not in said
    page = (folder / "report.html").read_text()
    assert "not attacked itself" not in page.replace("Where no attack was made", "")
    assert page.index('id="vote_attacks"') < page.index('id="worst"')


@pytest.mark.slow
def test_rows_say_what_the_judges_said(results: Any, ctx: Context) -> None:
    rows = {row["kind"]: row for row in results["vote_attacks"] if ":" not in row["attack"]}
    other = [row for row in results["vote_attacks"] if ":" in row["attack"]]
    assert all(row["kind"] == "adaptive" and row["n"] == 2 for row in other)
    assert len(other) == SMALL[-1].count("HopSkipJump")
    assert set(rows) == {"transfer", "adaptive", "best", "random", "network"}
    made = tuple(vote_attack.parts(ctx, "T-RegionCW"))
    found = vote_rows.judged(ctx, made)
    own = rows["adaptive"]
    assert own["n"] == 6
    assert own["per_seed"] == found.success.sum((1, 2)).tolist()
    assert own["rate"] == pytest.approx(found.success.mean())
    assert own["rate"] > rows["transfer"]["rate"]
    assert rows["random"]["rate"] < own["rate"]
    assert own["rounded"] is not None
    assert own["share_low"] > 0.4
    assert rows["best"]["noise_mean"] <= max(own["noise_mean"], rows["transfer"]["noise_mean"] or 0)
    assert rows["network"]["defence"] == "point"
    combined = {(row["attack"], row["defence"]) for row in results["attacks"]}
    assert {("T-CA-L2-V", "region"), ("U-CA-L2-V", "point")} <= combined


@pytest.mark.slow
def test_the_rows_are_counts_of_lines(results: Any, folder: Path) -> None:
    with open(folder / "vote-outcomes.csv") as stream:
        lines = list(csv.DictReader(stream))
    rows = {row["attack"]: row for row in results["vote_attacks"] if row["kind"] in ("transfer", "adaptive")}
    assert {line["attack"] for line in lines} == set(rows)
    for name, row in rows.items():
        own = [line for line in lines if line["attack"] == name]
        success = np.array([[int(line[f"success_{seed}"]) for seed in (1, 2, 3)] for line in own])
        rounded = np.array([[int(line[f"rounded_{seed}"]) for seed in (1, 2, 3)] for line in own])
        holds = 2 * success.sum(1) > 3
        assert len(own) == row["n"]
        assert success.sum(0).tolist() == row["per_seed"]
        assert rounded.mean() == pytest.approx(row["rounded"])
        assert np.mean([int(line["own"]) for line in own]) == pytest.approx(row["own_seed"])
        if holds.any():
            noise = np.array([float(line[row["norm"].lower()]) for line in own])[holds]
            assert noise.mean() == pytest.approx(row["noise_mean"], rel=1e-6)
            shares = np.array([float(line["share"]) for line in own])[holds]
            assert np.median(shares) == pytest.approx(row["share"], rel=1e-5)


@pytest.mark.slow
def test_images_are_judged_by_votes_that_the_attack_never_saw(ctx: Context) -> None:
    grid = get("vote_images")
    judged = [unit for unit in grid.needs(ctx) if isinstance(unit, JudgedExamples)]
    assert not any(isinstance(unit, AdversarialLabels) for unit in grid.needs(ctx))
    own = next(own for own in judges(ctx) if own.name == "region")
    _, shown, tried = grid._images(ctx, own)
    found, expected = examples(ctx), np.eye(len(shown), dtype=bool) & tried
    for unit in judged:
        most = 2 * ctx.arrays(unit)["success"].sum(0) > 3
        for label, row in enumerate(found.grid):
            if unit.made.start <= row < unit.made.stop:
                at = row - unit.made.start
                succeeded = most[at] & ctx.arrays(unit.made)["success"][at]
                expected[label, found.targets[row][succeeded]] = True
    assert (shown == expected).all()
    assert (shown & ~np.eye(len(shown), dtype=bool)).any()


@pytest.mark.slow
def test_votes_on_adversarial_examples_end_later(ctx: Context) -> None:
    """An attacker has thousands of tries: with 0.001 for each some early decision would be wrong."""
    made = next(iter(parts(ctx, Case("point", "T-CW-L2"), "drawn")))
    attacked, benign = AdversarialLabels("region", 0, made), BenignLabels("region", 0, 0, 100)
    vote, point = ctx.config.vote, network(ctx, "point")
    assert (vote.stop, vote.alpha, vote.adversarial_alpha) == ("sequential", 1e-3, 1e-6)
    x = torch.from_numpy(ctx.arrays(made)["adversarial"]).flatten(0, 1)
    clean = ctx.dataset.test.x[:100]
    for unit, points, alpha in ((attacked, x, 1e-6), (benign, clean, 1e-3)):
        assert unit.inputs(ctx)["defence"]["alpha"] == alpha
        made_now = unit.compute(ctx).arrays
        direct = region_classifier(point, length(ctx), replace(vote, alpha=alpha), seed=0).vote(points)
        first, second = direct.counts.topk(2, dim=1).values.float().unbind(1)
        assert made_now["said"].tolist() == direct.label.tolist()
        assert made_now["lead"].tolist() == ((first - second) / direct.samples).tolist()


@pytest.mark.slow
def test_the_judges_are_those_of_the_library(ctx: Context) -> None:
    """The stored judgement is that of rcfast.attacks.judge on the stored bytes; its seeds are not those of the run."""
    part = next(iter(vote_attack.parts(ctx, "T-RegionCW")))
    labels = vote_attack.wanted(ctx, part)
    adversarial = torch.from_numpy(ctx.arrays(part)["adversarial"]).flatten(0, 1)
    clean = vote_attack.examples(ctx).x[part.rows].repeat_interleave(labels.shape[1], dim=0)
    result = vote_attack.result_of(adversarial, clean)
    said = judge(vote_attack.attacked(ctx), result, labels.flatten(), targeted=True, m=100)
    stored = ctx.arrays(JudgedExamples(part))
    assert np.array_equal(said.success.numpy(), stored["success"].reshape(3, -1))
    assert said.rounded is not None
    assert np.array_equal(said.rounded.numpy(), stored["rounded"].reshape(3, -1))
    assert np.array_equal(said.share.numpy(), stored["share"].flatten())


@pytest.mark.slow
def test_the_best_transfer_is_the_least_noisy_that_the_known_votes_take(ctx: Context) -> None:
    (first, *_) = transfer.parts(ctx, 2)
    held = ctx.arrays(first)
    noise = np.full(held["success"].shape, np.inf)
    for said in first.needs(ctx):
        found, x = ctx.arrays(said.made), vote_attack.examples(ctx).x[first.rows].numpy()[:, None]
        made = np.clip(x + (1 + said.alpha) * (found["adversarial"] - x), 0, 1)
        size = np.sqrt(((made - x) ** 2).sum((2, 3, 4)))
        targets = vote_attack.examples(ctx).targets[first.rows]
        takes = found["success"] & (ctx.arrays(said)["said"].reshape(targets.shape) == targets)
        noise = np.minimum(noise, np.where(takes, size, np.inf))
    assert np.array_equal(held["success"], np.isfinite(noise))
    own = np.sqrt(((held["adversarial"] - x) ** 2).sum((2, 3, 4)))
    assert own[held["success"]] == pytest.approx(noise[held["success"]], rel=1e-4)
    assert held["success"].any()


def test_what_is_handed_in_of_several_attacks_is_chosen_by_the_votes_that_the_attacker_sees() -> None:
    def one(own: list[bool], noise: list[float], fresh: list[bool]) -> Judged:
        success = np.array(fresh)[None, None]
        return Judged(success, success, np.array(own)[None], np.array(noise)[None], np.array(noise)[None])

    both = vote_rows.best(
        [
            one([True, True, False, False], [1, 3, 1, 2], [False, True, True, True]),
            one([True, True, True, False], [2, 2, 2, 1], [True, False, False, False]),
        ]
    )
    assert both.noise.tolist() == [[1, 2, 2, 2]]
    assert both.success[0].tolist() == [[False, False, False, True]]


def test_a_vote_without_attacks_and_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"attacks\.vote must be among T-RegionCW, .* got 'T-Region'"):
        build("quick", settings=['attacks.vote=["T-Region"]'])
    if importlib.util.find_spec("foolbox"):
        config = build("quick", settings=['attacks.vote=["foolbox:Nothing"]'])
        with pytest.raises(ConfigError, match="has no attack 'Nothing'"):
            prepare(
                config, tmp_path, [get("vote_attacks")], Store(tmp_path, readonly=True), Progress("quiet")
            )
    for settings in (["attacks.vote=[]"], ['defences=["point"]']):
        chosen = [get(name) for name in NAMES[:3]]
        config = build("quick", settings=settings)
        ctx = prepare(config, tmp_path, chosen, Store(tmp_path, readonly=True), Progress("quiet"))
        assert not [unit for unit in plan(ctx, chosen) if isinstance(unit, VoteAttack | JudgedExamples)]


@pytest.mark.parametrize("preset", ["quick", "certified", "cpu", "paper"])
def test_every_preset_attacks_the_vote(preset: str) -> None:
    assert "T-RegionCW" in build(preset).attacks.vote


class Watched(nn.Module):
    """A network that notes in which precision it votes: passes for gradients are another thing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            SEEN.add(x.dtype)
        return self.body(x)


SEEN: set[torch.dtype] = set()


@pytest.mark.parametrize(
    ("dtype", "r", "meant"),
    [
        ("auto", 0.01, torch.float32),
        ("auto", 0.3, torch.bfloat16),
        ("bfloat16", 0.3, torch.bfloat16),
        ("float32", 0.3, torch.float32),
    ],
)
def test_defence_attacks_and_judges_vote_in_one_precision_fit_for_r(
    monkeypatch: pytest.MonkeyPatch, dtype: str, r: float, meant: torch.dtype
) -> None:
    """On a processor with bfloat16 units, where points at r = 0.01 would take six values a coordinate."""
    monkeypatch.setattr(hardware, "_cpu_flags", lambda: frozenset({"avx512_bf16"}))
    for limit in hardware._LIMITS:
        monkeypatch.delenv(limit, raising=False)
    config = resolved(build("quick", settings=[f"vote.dtype='{dtype}'"]), torch.device("cpu"))
    vote = replace(config.vote, m=20)
    x, targets = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2])
    own = Network("point", Watched().eval(), "weights", x[:1])
    monkeypatch.setattr(vote_attack, "network", lambda ctx, name: own)
    monkeypatch.setattr(vote_attack, "length", lambda ctx: r)
    attacked: Any = vote_attack.attacked(SimpleNamespace(config=replace(config, vote=vote)))  # type: ignore[arg-type]
    found: dict[str, set[torch.dtype]] = {}

    def note(name: str) -> None:
        found[name] = {kind for kind in SEEN if kind != torch.float64}
        SEEN.clear()

    SEEN.clear()
    defence = region_judge(own, r, vote)
    lead = defence.label(x, 0)[1]
    note("defence")
    attacked.vote(x)
    note("attacked")
    result = RegionCW(steps=2, points=2, votes=20)(attacked, x, targets)
    note("attack")
    judge(attacked, result, targets, targeted=True, m=20)
    note("judge")
    assert all(meant in kinds for kinds in found.values()), found
    assert found["judge"] == found["attacked"] == {meant}, found
    if meant == torch.float32:
        full = region_judge(own, r, replace(vote, dtype="float32"))
        assert np.array_equal(lead, full.label(x, 0)[1])
        assert defence.identity == full.identity


def test_another_version_of_a_library_gives_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of attacks on votes, on networks and their repetitions by the checks alike: all are keyed by these settings."""
    from rcfast.attacks import external
    from rcfast.eval.run.attack import settings

    attack, found = external("foolbox:HopSkipJumpAttack"), []
    for version in ("1.0", "2.0"):
        monkeypatch.setattr("importlib.metadata.version", lambda package, v=version: f"{package} {v}")
        found.append(settings(attack))
    assert found[0].pop("library") == "foolbox 1.0"
    assert found[1].pop("library") == "foolbox 2.0"
    assert found[0] == found[1]
