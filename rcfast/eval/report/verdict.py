"""What stands at the top of the page: the headline, the key figures and the findings of all outputs, in order."""

from rcfast.eval import outputs
from rcfast.eval.outputs import verdicts
from rcfast.eval.outputs.output import Finding, KeyFigure
from rcfast.eval.outputs.records import defences, label, listed
from rcfast.eval.results import DEFENCES, Results

TOO_LITTLE = "Too little was measured for a verdict on the region-based classifier."


def findings(results: Results) -> list[Finding]:
    """The verdict, one finding a sentence or two; only what was measured is spoken of.

    Region-based classification comes first, then a user's own defences, then the trained ones, then the run.
    """
    own = [name for name in defences(results) if name not in DEFENCES]
    order = [*map(label, ("region", *own, "adversarial", "distillation")), ""]
    said = [finding for output in outputs.of(results) for finding in output.findings(results)]
    said += [*verdicts.seeds(results), *verdicts.agreement(results)]
    return sorted(said, key=lambda f: order.index(f.about) if f.about in order else len(order))


def headline(results: Results) -> str:
    """The verdict on the region-based classifier: the first thing that an output has to say, then the others."""
    first, *others = [clause for output in outputs.of(results) if (clause := output.clause(results))] or [""]
    if not first:
        return TOO_LITTLE
    return f"Voting over a region {first}." + (f" It {listed(others)}." if others else "")


def key_figures(results: Results) -> list[KeyFigure]:
    """The key figures of the run, at most six."""
    return [figure for output in outputs.of(results) for figure in output.key_figures(results)][:6]
