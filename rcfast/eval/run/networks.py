"""The networks of a run: given, or trained with checkpoints and kept as weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rcfast import attacks, models, training
from rcfast.eval.run.alike import threads
from rcfast.eval.run.config import TRAINED, TRAINING_ATTACK, Config, ConfigError
from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import Network, weights_digest
from rcfast.eval.run.modules import code_digest, load_factory
from rcfast.eval.run.unit import Made, Unit, explained
from rcfast.eval.run.versions import ATTACK, ATTACKED, NETWORK
from rcfast.running import in_evaluation

if TYPE_CHECKING:
    from rcfast.eval.run.pace import Pace

Described = dict[str, Any]


@dataclass(frozen=True)
class TrainedNetwork(Unit):
    """A network that is trained here: point, adversarial or distillation."""

    name: str

    kind = stage = "train"
    suffix = ".safetensors"

    def __str__(self) -> str:
        return f"training the {self.name} network"

    def check(self, ctx: Context) -> None:
        recipe(ctx, self.name)

    def inputs(self, ctx: Context) -> dict[str, Any]:
        return recipe(ctx, self.name)[0]

    def compute(self, ctx: Context) -> Made:
        ctx.progress.print(str(self))
        inputs, train = recipe(ctx, self.name)
        checkpoint, teacher = self._checkpoints(ctx)
        with explained(str(self)), threads(ctx.config.training_threads):
            model = from_checkpoint(ctx, lambda: train(checkpoint), checkpoint, teacher)
        path = ctx.store.path(self.kind, inputs, self.suffix)
        training.save_model(model, path, {key: inputs[key] for key in ("network", "seed", "recipe")})
        return Made(digest=weights_digest(model, {"inputs": inputs}))

    def tidy(self, ctx: Context) -> None:
        for path in self._checkpoints(ctx):
            path.unlink(missing_ok=True)

    def seconds(self, ctx: Context, pace: Pace) -> float:
        epochs = self.inputs(ctx)["recipe"]["epochs"]
        # One iteration of DeepFool on a minibatch takes a little more than a step of training.
        made = 1 + 1.2 * ctx.config.train.adversarial.get("attack_settings", {}).get("iterations", 10)
        passes = {"point": 1.0, "distillation": 2.0, "adversarial": made}[self.name]
        return passes * epochs * len(ctx.dataset.train) * pace.training

    def _checkpoints(self, ctx: Context) -> tuple[Path, Path]:
        """The checkpoint of the network and that of its teacher."""
        path = ctx.store.path(self.kind, self.inputs(ctx), self.suffix)
        checkpoint = path.with_name(f"{path.stem}-epochs.safetensors")
        return checkpoint, checkpoint.with_stem(checkpoint.stem + "-teacher")


def trained(ctx: Context) -> list[str]:
    """Return the names of the networks that the run's defences ask for."""
    return [name for name in TRAINED if name in ctx.config.defences]


def needed_for(ctx: Context, name: str) -> Iterable[Unit]:
    """Yield the unit that makes a network; none for one that is given."""
    if name in TRAINED and not (name == "point" and builder(ctx)[2] is not None):
        yield TrainedNetwork(name)


def network(ctx: Context, name: str) -> Network:
    """Return a network of the run, in evaluation mode on the run's device. Raises Missing when it is not there."""
    return ctx.once(("network", name), lambda: _network(ctx, name))


def _network(ctx: Context, name: str) -> Network:
    if name not in TRAINED:
        from rcfast.eval.run.judges import user_defence_of

        own = user_defence_of(ctx)[1]
        assert own is not None, f"no network is called {name}"
        return own
    make, described, given = builder(ctx)
    like = ctx.dataset.test.x[:1].to(ctx.device)
    if name == "point" and given is not None:
        given = given.to(ctx.device)
        return Network(name, given, weights_digest(given, {"source": described}), like)
    part = ctx.part(TrainedNetwork(name))
    # Also when just trained: a network fresh from training keeps another memory format and rounds otherwise.
    model, _ = training.load_model(part.path, model=make())
    return Network(name, model.to(ctx.device).eval(), part.digest, like)


def builder(ctx: Context) -> tuple[Callable[[], nn.Module], Described, nn.Module | None]:
    """Return what makes an untrained network, what identifies it, and the user's own trained one if given."""
    return ctx.once("builder", lambda: _builder(ctx))


def _builder(ctx: Context) -> tuple[Callable[[], nn.Module], Described, nn.Module | None]:
    source, seed, dataset, given = ctx.config.model.source, ctx.config.seed, ctx.dataset, ctx.given
    if source in ("", *models.ARCHITECTURES):

        def make() -> nn.Module:
            if not source:
                return models.for_dataset(dataset, seed=seed)
            return models.build(source, shape=dataset.shape, num_classes=dataset.num_classes, seed=seed)

        architecture: Described = dict(make().architecture)  # type: ignore[arg-type]
        return make, {"architecture": architecture}, None
    if models.is_source(source):
        count = dataset.num_classes
        described = {"source": source, "versions": versions_of(source), "classes": count, "seed": seed}
        return lambda: models.load(source, weights="none", num_classes=count, seed=seed), described, given
    if source.endswith(".safetensors"):
        network = given if given is not None else given_network(ctx.config, train=True)
        architecture = dict(network.architecture)  # type: ignore[union-attr,arg-type]

        def again() -> nn.Module:
            return models.build(**{**architecture, "seed": seed})

        return again, {"architecture": {**architecture, "seed": seed}}, given
    factory = load_factory(source, option="--model")
    described = {"factory": source, "code": code_digest(factory), "seed": seed}
    return lambda: fresh(factory, seed), described, given


def given_network(config: Config, *, train: bool = False) -> nn.Module | None:
    """Return the user's own network, in evaluation mode; None where there is none, or where it is to be trained.

    train: return it although it is to be trained. Raises ConfigError for one that cannot be had.
    """
    own = config.model
    if own.source in ("", *models.ARCHITECTURES) or (own.train and not train):
        return None
    try:
        if models.is_source(own.source):
            return models.load(own.source, weights=own.weights, seed=config.seed)
        if own.source.endswith(".safetensors"):
            return training.load_model(own.source)[0]
    except (ValueError, OSError, ImportError) as error:
        raise ConfigError(f"--model: {error}") from error
    made = load_factory(own.source, option="--model")()
    if not isinstance(made, nn.Module):
        raise ConfigError(f"--model: {own.source} must return a torch module, got {type(made).__name__}")
    return in_evaluation(made)


def versions_of(source: str) -> dict[str, str]:
    """Return the versions of the libraries that build a network."""
    library = {"hf": "transformers"}.get(source.partition(":")[0], source.partition(":")[0])
    return {name: metadata.version(name) for name in ("torch", library)}


def fresh(factory: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return what the factory makes, every layer with new random weights that depend on `seed` alone.

    Raises ConfigError for a layer that holds parameters but cannot reset them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        model = factory()  # may draw what no layer resets
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


def recipe(ctx: Context, name: str) -> tuple[Described, Callable[[Path], nn.Module]]:
    """Return what decides a network's weights, and the call that trains it with a checkpoint at a path.

    Raises ConfigError for a setting that training does not know.
    """
    return ctx.once(("recipe", name), lambda: _recipe(ctx, name))


def _recipe(ctx: Context, name: str) -> tuple[Described, Callable[[Path], nn.Module]]:
    make, described, _ = builder(ctx)
    settings = dict(getattr(ctx.config.train, name))
    inputs: Described = {
        "version": NETWORK,
        "network": name,
        "model": described,
        "data": ctx.dataset.train.fingerprint,
        "seed": ctx.config.seed,
    }
    common: Described = {"seed": ctx.config.seed}
    if name == "adversarial":
        common["attack"] = training_attack(settings).on(ctx.device)
        inputs |= {"attack": repr(common["attack"]), "attack_version": [ATTACK, ATTACKED]}
    recipe_for = training.recipe_for
    if name == "distillation":
        common["temperature"] = settings.pop("temperature", 100.0)
        recipe_for = partial(training.distilled_recipe, temperature=common["temperature"])
    try:
        untrained = make()
        inputs["recipe"] = asdict(recipe_for(untrained, **settings).on(ctx.device))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"train.{name}: {error}") from error
    inputs |= made_of(described, untrained)
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


def made_of(described: Described, untrained: nn.Module) -> Described:
    """What a part's key says of a network beside its description: a factory may read files, a folder change."""
    return {} if "architecture" in described else {"made": weights_digest(untrained)}


def from_checkpoint(ctx: Context, train: Callable[[], nn.Module], *checkpoints: Path) -> nn.Module:
    """Return what is trained; anew where the checkpoints that an earlier run has left are of another training."""
    try:
        return train()
    except ValueError as error:
        if not any(path.exists() for path in checkpoints):
            raise
        ctx.progress.print(f"{error}; training starts anew")
        for path in checkpoints:
            path.unlink(missing_ok=True)
        return train()


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
