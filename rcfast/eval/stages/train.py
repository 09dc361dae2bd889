"""First stage: the networks, the length r, and which examples are attacked."""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rcfast import attacks, models, training
from rcfast.calibration import LengthSearch, learn_length
from rcfast.eval.config import TRAINING_ATTACK, Config, ConfigError
from rcfast.eval.defences import (
    Network,
    in_batches,
    load_factory,
    point_judge,
    region_judge,
    source_digest,
    user_defence,
    voter,
    weights_digest,
)
from rcfast.eval.plan import make_plan
from rcfast.eval.protocol import draw_examples, draw_targets, grid_examples
from rcfast.eval.stages import attack
from rcfast.eval.stages.context import Context, Examples, Tally, explained
from rcfast.eval.store import Arrays, Part

VERSION = 2  # of training and of the draw: raised when the code makes other networks from the same settings
LENGTH_VERSION = 2  # of the search for r: raised when the stopping rule changes
GRID_ROWS = 10  # labels of an image grid at most

Described = dict[str, Any]


def run(ctx: Context) -> None:
    """Fill in networks, judges, examples and r."""
    tally = Tally()
    jobs = len(ctx.plan.networks) + ctx.plan.length
    with ctx.progress.stage("train", jobs, "models") as bar:
        for name in ctx.plan.networks:
            bar.say(name)
            ctx.networks[name] = network(ctx, name, tally)
            bar.advance()
        if ctx.plan.length:
            bar.say("length r")
            ctx.r = length(ctx, tally)
            if "figure4" in ctx.plan.outputs:
                curve(ctx, tally)
            bar.advance()
    set_judges(ctx)
    ctx._examples = examples(ctx)
    ctx.stages.append(tally.time("train"))


def set_judges(ctx: Context) -> None:
    """Fill in who labels: every network, the region-based classifier, the user's defence."""
    point = ctx.networks["point"]
    ctx.judges = [point_judge(n) for n in ctx.networks.values()]
    if "region" in ctx.config.defences and ctx.r is not None:
        ctx.judges.append(region_judge(point, ctx.r, ctx.config.vote))
    if ctx.config.user_defence:
        judge, own = user_defence(ctx.config.user_defence, point, ctx.dataset)
        ctx.judges.append(judge)
        ctx.user = judge.name
        if own is not None:
            ctx.networks[own.name] = own
            ctx.plan = make_plan(ctx.config, ctx.plan.outputs, extra=(own.name,))


# ---- networks


def builder(ctx: Context) -> tuple[Callable[[], nn.Module], Described, nn.Module | None]:
    """Return what makes an untrained network, what identifies it, and the user's own trained one if given."""
    return build_network(ctx.config, ctx.dataset)


def build_network(
    config: Config, dataset: Any
) -> tuple[Callable[[], nn.Module], Described, nn.Module | None]:
    source, seed = config.model.source, config.seed
    if source in ("", *models.ARCHITECTURES):

        def make() -> nn.Module:
            if not source:
                return models.for_dataset(dataset, seed=seed)
            return models.build(source, shape=dataset.shape, num_classes=dataset.num_classes, seed=seed)

        architecture: Described = dict(make().architecture)  # type: ignore[arg-type]
        return make, {"architecture": architecture}, None
    if source.endswith(".safetensors"):
        try:
            given, _ = training.load_model(source)
        except (ValueError, FileNotFoundError) as error:
            raise ConfigError(f"--model: {error}") from error
        architecture = dict(given.architecture)  # type: ignore[arg-type]

        def again() -> nn.Module:
            return models.build(**{**architecture, "seed": seed})

        return again, {"architecture": {**architecture, "seed": seed}}, None if config.model.train else given
    factory = load_factory(source, option="--model")
    own = factory()
    if not isinstance(own, nn.Module):
        raise ConfigError(f"--model: {source} must return a torch module, got {type(own).__name__}")
    described = {"factory": source, "code": source_digest(factory), "seed": seed}
    return lambda: fresh(factory(), seed), described, None if config.model.train else own.eval()


def fresh(model: nn.Module, seed: int) -> nn.Module:
    """Give every layer new random weights that depend on `seed` alone.

    Raises ConfigError for a layer that holds parameters but cannot reset them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        for name, module in model.named_modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            elif any(True for _ in module.parameters(recurse=False)):
                raise ConfigError(
                    f"--model: layer {name or type(module).__name__} has no reset_parameters(), so that the "
                    "trained defences cannot start anew; add it, or leave them out: "
                    '--set \'defences=["point","region"]\''
                )
    return model


def network(ctx: Context, name: str, tally: Tally) -> Network:
    """Return a network of the run, trained unless it is found."""
    make, described, given = builder(ctx)
    if name == "point" and given is not None:
        given = given.to(ctx.device)
        return Network(name, given, weights_digest(given, {"source": described}))
    inputs, train = recipe(ctx, name, make, described)
    part = ctx.ready("train", inputs, ".safetensors")
    reused = part is not None
    if part is None:
        part = _train(ctx, name, inputs, train)
    tally.add(part, reused=reused)
    return load(ctx, name, make, part)


def load(ctx: Context, name: str, make: Callable[[], nn.Module], part: Part) -> Network:
    """Return the network of a part."""
    # Also when just trained: a network fresh from training keeps another memory format and rounds otherwise.
    model, _ = training.load_model(part.path, model=make())
    return Network(name, model.to(ctx.device).eval(), part.digest)


def recipe(
    ctx: Context, name: str, make: Callable[[], nn.Module], described: Described
) -> tuple[Described, Callable[[Path], nn.Module]]:
    """Return what decides a network's weights, and the call that trains it with a checkpoint at a path.

    Raises ConfigError for a setting that training does not know.
    """
    settings = dict(getattr(ctx.config.train, name))
    inputs: Described = {
        "version": VERSION,
        "network": name,
        "model": described,
        "data": ctx.dataset.train.fingerprint,
        "seed": ctx.config.seed,
    }
    common: Described = {"seed": ctx.config.seed}
    if name == "adversarial":
        common["attack"] = training_attack(settings).on(ctx.device)
        inputs |= {"attack": repr(common["attack"]), "attack_version": attack.VERSION}
    recipe_for = training.recipe_for
    if name == "distillation":
        common["temperature"] = settings.pop("temperature", 100.0)
        recipe_for = partial(training.distilled_recipe, temperature=common["temperature"])
    try:
        inputs["recipe"] = asdict(recipe_for(make(), **settings).on(ctx.device))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"train.{name}: {error}") from error
    if name == "distillation":
        inputs["temperature"] = float(common["temperature"])

    def train(checkpoint: Path) -> nn.Module:
        call = {**common, **settings, "checkpoint": checkpoint}
        split = ctx.dataset.train
        if name == "distillation":
            return training.fit_distilled(lambda: make().to(ctx.device), split, **call).model
        fit = training.fit if name == "point" else training.fit_adversarial
        return fit(make().to(ctx.device), split, **call).model

    return inputs, train


def training_attack(settings: Described) -> Any:
    """Take the attack of adversarial training out of its settings: name, budget, and single values."""
    name, budget = settings.pop("attack", TRAINING_ATTACK), settings.pop("attack_budget", "paper")
    own = settings.pop("attack_settings", {})
    try:
        made = attacks.get(name, budget=budget, **own)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"train.adversarial.attack: {error}") from error
    if made.targeted:
        raise ConfigError(f"train.adversarial.attack must be an untargeted attack, got {name!r}")
    return made


def _train(ctx: Context, name: str, inputs: Described, train: Callable[[Path], nn.Module]) -> Part:
    ctx.progress.print(f"training the {name} network")
    start = time.perf_counter()
    path = ctx.store.path("train", inputs, ".safetensors")
    checkpoint = path.with_name(f"{path.stem}-epochs.safetensors")
    with explained(f"training the {name} network"):
        try:
            model = train(checkpoint)
        except ValueError as error:
            if not any(path.exists() for path in _checkpoints(checkpoint)):
                raise
            ctx.progress.print(f"{error}; training starts anew")
            for stale in _checkpoints(checkpoint):
                stale.unlink(missing_ok=True)
            model = train(checkpoint)
    training.save_model(model, path, {key: inputs[key] for key in ("network", "seed", "recipe")})
    seconds = time.perf_counter() - start
    digest = weights_digest(model, {"inputs": inputs})
    part = ctx.store.adopt("train", inputs, digest, suffix=".safetensors", seconds=seconds)
    for done in _checkpoints(checkpoint):
        done.unlink(missing_ok=True)
    return part


def _checkpoints(path: Path) -> tuple[Path, Path]:
    return path, path.with_stem(path.stem + "-teacher")


# ---- length r


def length(ctx: Context, tally: Tally) -> float:
    """Return r: given, or learnt on the validation set (Algorithm 1)."""
    own, inputs = ctx.config.length, length_inputs(ctx)
    part = ctx.ready("length", inputs)
    if part is None:
        start = time.perf_counter()
        search = _search(ctx, r0=own.r0, step=own.step, r_max=own.r_max)
        info = {
            "r": float(own.r if own.r >= 0 else search.r),
            "learnt": own.r < 0,
            "point_accuracy": float(search.point_accuracy),
            "n": search.n,
        }
        seconds = time.perf_counter() - start
        part = ctx.store.save("length", inputs, _curve_arrays(search), seconds=seconds, info=info)
        tally.add(part, reused=False)
    else:
        tally.add(part, reused=True)
    return float(part.info["r"])


def curve(ctx: Context, tally: Tally) -> Part | None:
    """Return the accuracies beyond the last radius of the search, which only Figure 4 needs."""
    own, inputs = ctx.config.length, curve_inputs(ctx)
    part = ctx.ready("length", inputs)
    if part is not None:
        return tally.add(part, reused=True)
    searched = ctx.ready("length", length_inputs(ctx))
    assert searched is not None, "r was found before"
    last = float(ctx.arrays(searched)["radii"][-1])
    first = (math.floor(last / own.curve_step + 1e-9) + 1) * own.curve_step
    if first > own.curve_max + 1e-9:
        return None
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that accuracy is lost there is what is drawn
        search = _search(ctx, r0=first, step=own.curve_step, r_max=max(own.curve_max, first), curve=True)
    seconds = time.perf_counter() - start
    part = ctx.store.save("length", inputs, _curve_arrays(search), seconds=seconds)
    return tally.add(part, reused=False)


def _curve_arrays(search: LengthSearch) -> Arrays:
    return {
        "radii": np.asarray(search.radii, np.float64),
        "accuracy": np.asarray(search.accuracy, np.float64),
    }


def _search(ctx: Context, **radii: Any) -> LengthSearch:
    own, vote, validation = ctx.config.length, ctx.config.vote, ctx.dataset.validation
    with explained("the search for r"):
        return learn_length(
            voter(ctx.networks["point"].model, vote.dtype),
            validation.x.to(ctx.device),
            validation.y.to(ctx.device),
            m=own.m,
            tolerance=own.tolerance,
            stop=None if own.stop == "none" else own.stop,
            clip=vote.clip,  # type: ignore[arg-type]
            alpha=vote.alpha,
            seed=vote.seeds[0],
            chunk=vote.chunk,
            **radii,
        )


def length_inputs(ctx: Context) -> Described:
    """Return what the learnt r depends on."""
    own, vote = ctx.config.length, ctx.config.vote
    return {
        "version": LENGTH_VERSION,
        "network": ctx.networks["point"].digest,
        "validation": ctx.dataset.validation.fingerprint,
        "search": [own.r, own.r0, own.step, own.r_max, own.m, own.tolerance, own.stop],
        "vote": [vote.clip, vote.alpha, vote.dtype, vote.chunk, vote.seeds[0]],
    }


def curve_inputs(ctx: Context) -> Described:
    """Return what the rest of the curve depends on."""
    own = ctx.config.length
    return {**length_inputs(ctx), "curve": [own.curve_max, own.curve_step]}


# ---- examples


def examples(ctx: Context, *, keep: bool = True) -> Examples:
    """Draw the attacked examples among those that the undefended network classifies correctly.

    keep: write them to the store.

    Raises ConfigError when there is none.
    """
    test, protocol, seed = ctx.dataset.test, ctx.config.protocol, ctx.config.seed
    inputs = {
        "version": VERSION,
        "network": ctx.networks["point"].digest,
        "test": test.fingerprint,
        "count": protocol.examples,
        "targets": protocol.targets,
        "seed": seed,
    }
    part = ctx.ready("examples", inputs)
    if part is None:
        model = ctx.networks["point"].model
        with torch.no_grad(), explained("labelling the test set"):
            said = in_batches(lambda x: model(x.to(ctx.device)).argmax(1).cpu(), test.x).numpy()
        y, rows = test.y.numpy(), min(ctx.dataset.num_classes, GRID_ROWS)
        drawn = draw_examples(y, said, count=protocol.examples, seed=seed)
        if not len(drawn):
            raise ConfigError(
                "the undefended network classifies no test example correctly: nothing to attack"
            )
        grid = grid_examples(y, said, drawn=drawn, rows=rows, seed=seed)
        extra = [i for i in grid if i >= 0 and i not in set(drawn.tolist())]
        index = np.concatenate([drawn, np.asarray(extra, np.int64)])
        place = {int(i): row for row, i in enumerate(index)}
        found = {
            "index": index,
            "drawn": np.asarray(len(drawn)),
            "grid": np.asarray([place.get(int(i), -1) for i in grid], np.int64),
            "targets": draw_targets(
                y[index], num_classes=ctx.dataset.num_classes, count=protocol.targets, seed=seed
            ),
        }
        got = found
        if keep:
            ctx.store.save("examples", inputs, found)
    else:
        got = ctx.arrays(part)
    index = got["index"]
    if int(got["drawn"]) < protocol.examples:
        ctx.warn(f"only {int(got['drawn'])} of {protocol.examples} examples are classified correctly")
    return Examples(
        index=index,
        x=test.x[torch.from_numpy(index)].to(ctx.device),
        y=test.y.numpy()[index],
        targets=got["targets"],
        grid=got["grid"],
        drawn=int(got["drawn"]),
    )
