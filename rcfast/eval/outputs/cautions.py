"""Where a number would mislead: the warnings that follow from the results of a run."""

from collections.abc import Collection, Iterator

from rcfast.eval.outputs.records import select
from rcfast.eval.outputs.verdicts import TABLES
from rcfast.eval.results import AttackRow, Results
from rcfast.eval.run.config import TRAINED
from rcfast.eval.run.power import FEW, power


def cautions(results: Results, *, drawn: int, networks: Collection[str]) -> Iterator[str]:
    """Yield one sentence for each way in which these results would mislead.

    drawn: how many examples were attacked. networks: names of those that were attacked.
    """
    yield from _attacks(results)
    yield from _length(results)
    shown = results["attacks"] or results.get("worst")
    if (shown or results.get("vote_attacks") or results.get("compared")) and drawn < FEW:
        yield f"few examples: {power(drawn, len(select(results, TABLES, defence='point')))}"
    judged = ("region" in results.get("defences", ()) and shown) or results.get("compared")
    if judged and len(results["config"]["vote"]["seeds"]) < 2:
        yield "one vote seed alone: candidates are chosen by the votes that judge them, see vote.seeds"
    attacks = results["config"]["attacks"]
    limited = [n for n in networks if (n if n in TRAINED else "user") not in attacks["confidence_models"]]
    if limited and attacks["confidences"] and any(row["attack"] == "T-CA-L2" for row in results["attacks"]):
        yield f"CA-L2 on {', '.join(limited)} combines k = 0 only (and DeepFool), see attacks.confidence_models"


def _attacks(results: Results) -> Iterator[str]:
    """Attacks that fail without a defence: that they fail against one is no merit of it."""
    groups = ("targeted", "untargeted", "confidence")
    rows = [
        row
        for row in select(results, groups, defence="point", reading="model")
        if row["n"] and (row["group"] != "confidence" or row["parameter"])  # k = 0 is among the targeted
    ]
    never = [_name(row) for row in rows if not row["success"]]
    seldom = [
        f"{_name(row)} ({row['success'] / row['n']:.0%})" for row in rows if 0 < row["success"] < row["n"] / 2
    ]
    if never:
        yield f"never successful on the undefended network, so that the rows say nothing: {', '.join(never)}"
    if seldom:
        yield f"successful on the undefended network in less than half of the cases: {', '.join(seldom)}"


def _name(row: AttackRow) -> str:
    return f"{row['attack']} at k = {row['parameter']:g}" if row["parameter"] else row["attack"]


def _length(results: Results) -> Iterator[str]:
    """A length at an end of the search: there the search has decided, and not the data."""
    if "length" not in results:
        return
    r, search = results["length"]["r"], results["config"]["length"]
    if r == 0:
        if "region" in results["config"]["defences"]:
            yield "r is 0: the region-based classifier is the undefended network"
    elif results["length"]["learnt"] and r > search["r_max"] - search["step"] + 1e-9:
        allowed = f" beyond length.tolerance = {search['tolerance']:g}" if search["tolerance"] else ""
        yield (
            f"accuracy was lost{allowed} at no length that was tried: r = {r:g} is where the search ends "
            f"(length.r_max = {search['r_max']:g})"
        )
