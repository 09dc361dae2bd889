"""The paper's evaluation from one command: train, attack, vote, tabulate, draw."""

from rcfast.eval.config import Config, ConfigError, StageError, build
from rcfast.eval.results import Results
from rcfast.eval.store import StoreError

__all__ = ["Config", "ConfigError", "Results", "StageError", "StoreError", "build", "evaluate"]


def evaluate(*args, **kwargs):  # type: ignore[no-untyped-def]
    """Run an evaluation; see :func:`rcfast.eval.engine.evaluate`, which is imported at the first call."""
    from rcfast.eval.engine import evaluate as run

    return run(*args, **kwargs)
