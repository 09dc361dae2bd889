"""The paper's evaluation from one command: train, attack, vote, tabulate, draw."""

from rcfast.eval.results import Results
from rcfast.eval.run.config import Config, ConfigError, StageError
from rcfast.eval.run.settings import build
from rcfast.eval.run.store import StoreError

__all__ = ["Config", "ConfigError", "Results", "StageError", "StoreError", "build", "evaluate"]


def evaluate(*args, **kwargs):  # type: ignore[no-untyped-def]
    """Run an evaluation; see :func:`rcfast.eval.evaluation.evaluate`, which is imported at the first call."""
    from rcfast.eval.evaluation import evaluate as run

    return run(*args, **kwargs)
