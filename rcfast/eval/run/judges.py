"""The defences of one run: who is measured, and who labels."""

from collections.abc import Iterable

from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import Judge, Measured, Network, point_judge, region_judge, user_defence
from rcfast.eval.run.length import LearntLength, length
from rcfast.eval.run.networks import needed_for, network, trained
from rcfast.eval.run.unit import Unit


def judges(ctx: Context) -> list[Measured]:
    """Return the defences under measurement; a user's own is not known in a sketch."""
    found = [Measured(name, name, (None,)) for name in trained(ctx)]
    if "region" in ctx.config.defences:
        found.append(Measured("region", "point", tuple(ctx.config.vote.seeds)))
    if ctx.config.user_defence and not ctx.sketch:
        found.append(user_defence_of(ctx)[0])
    return found


def networks(ctx: Context) -> list[str]:
    """Return the names of the networks that are attacked: the trained ones, and that of a user's defence."""
    return list(dict.fromkeys([*trained(ctx), *(own.attacked for own in judges(ctx))]))


def judge(ctx: Context, name: str, *, tried: bool = False) -> Judge:
    """Return a defence that can label. Raises Missing when what it consists of is not finished.

    tried: examples of which an attacker may try many, so that a vote that ends early errs with a smaller probability.
    """
    return ctx.once(("judge", name, tried), lambda: _judge(ctx, name, tried))


def _judge(ctx: Context, name: str, tried: bool) -> Judge:
    if name == "region":
        return region_judge(network(ctx, "point"), length(ctx), ctx.config.vote.of(tried=tried))
    if name in trained(ctx):
        return point_judge(network(ctx, name))
    return user_defence_of(ctx)[0]


def needed_by(ctx: Context, name: str) -> Iterable[Unit]:
    """Yield the units that a defence consists of."""
    yield from needed_for(ctx, name if name in trained(ctx) else "point")
    if name == "region":
        yield LearntLength()


def user_defence_of(ctx: Context) -> tuple[Judge, Network | None]:
    """Return the user's own defence and its network, if it offers one. Raises ConfigError, Missing."""
    made = lambda: user_defence(ctx.config.user_defence, network(ctx, "point"), ctx.dataset)  # noqa: E731
    return ctx.once("user's defence", made)
