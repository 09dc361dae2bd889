"""How the numbers were made, in sentences for the reader of the report."""

from rcfast.eval.outputs.records import select
from rcfast.eval.outputs.verdicts import TABLES
from rcfast.eval.results import Results
from rcfast.eval.run.power import power

_METHOD = (
    "Attacked are test examples drawn at random among those that the undefended network labels correctly, "
    "each with every target, or with as many as the settings below say.",
    "A targeted attack succeeds when the defence itself answers the target, an untargeted one when it "
    "answers anything but the true label. Trained defences are attacked on their own network; the "
    "region-based classifier receives what was made on the network that it votes with{}.",
    "An untargeted or combined attack hands in the least noisy of its candidates that succeed against the "
    "defence. Where votes are random, the candidate is chosen by the votes of the first seed and judged by those of "
    "the others, which the attacker has not seen; rates are means over the seeds that judge. The paper chooses and "
    "judges by the same votes: that reading, which its printed values are compared with, stands below where it "
    "differs. The data files also hold a third, in which the attacked network chooses.",
    "Intervals of rates are at the 95% level and resample images, with all targets of an image: adversarial examples "
    "made from one image resemble each other. Wilson's interval, which takes them as independent, is in the data.",
    "A defence is compared with the undefended network on the same images, one by one. It is said to make an attack "
    "succeed clearly less often where the paired test gives p < 0.05 after Holm's correction over all attacks of "
    "Tables 4 to 6; to cost accuracy where McNemar's exact test gives p < 0.05; to keep accuracy where the interval of "
    "the difference lies above minus protocol.margin.",
    "Noise is the mean over successful examples in the attack's norm, for inputs in [0, 1], with its standard error "
    "over images; L0 counts changed coordinates. Examples that a defence gets wrong without any attack count as "
    "successes, are shown apart, and are left out of the mean noise.",
    "outcomes.csv holds every adversarial example with its noise and all labels, for other statistics.",
)


def method(results: Results) -> list[str]:
    """What was done, and whether the vote was attacked itself."""
    itself = (results.get("direct") or {}).get("region")
    known = ", and what was made against the vote itself where an attack is said to know it" if itself else ""
    return [text.format(known) for text in _METHOD]


def can_show(results: Results) -> list[str]:
    """What the number of examples can show at all."""
    rows = select(results, TABLES, defence="point")
    if not rows:
        return []
    said = power(max(row["examples"] for row in rows), len(rows))
    return [f"{said[0].upper()}{said[1:]}."]


def precision(results: Results) -> list[str]:
    """In which precision the networks computed, and why, where the results tell."""
    auto = results.get("environment", {}).get("auto_precision")
    if not auto:
        return []
    votes = results["config"]["vote"]["dtype"] or "the network's own precision"
    if votes == "auto":
        votes = f"{auto['dtype']}, or float32 around r = 1/16 and below, where {auto['dtype']} is coarse"
    return [
        f"The votes were computed in {votes}; what leaves the choice to the device, as training and the gradients of "
        f"the attacks do unless their settings say otherwise, in {auto['dtype']} ({auto['why']})."
    ]
