"""How the numbers were made, in sentences for the reader of the report."""

from rcfast.eval.results import Results

METHOD = (
    "Attacked are test examples drawn at random among those that the undefended network labels correctly, "
    "each with every target, or with as many as the settings below say.",
    "A targeted attack succeeds when the defence itself answers the target, an untargeted one when it "
    "answers anything but the true label. Trained defences are attacked on their own network; the "
    "region-based classifier receives what was made on the network that it votes with.",
    "An untargeted or combined attack hands in the least noisy of its candidates that succeed against the "
    "defence. Where it matters, cells also say how often the candidate succeeds that the attacked network "
    "would have chosen; the data files hold both.",
    "Rates carry Wilson's 95% interval, means their standard error. Noise is the mean over successful "
    "examples in the attack's norm, for inputs in [0, 1]; L0 counts changed coordinates. Adversarial "
    "examples made from one image resemble each other, so the intervals are, if anything, too narrow.",
    "The vote is repeated with other seeds; the tables show the first and how far apart all of them are.",
)


def precision(results: Results) -> list[str]:
    """In which precision the networks computed, and why, where the results tell."""
    auto = results.get("environment", {}).get("auto_precision")
    if not auto:
        return []
    votes = results["config"]["vote"]["dtype"] or "the network's own precision"
    return [
        f"The votes were computed in {votes}; what leaves the choice to the device, as training and the gradients of "
        f"the attacks do unless their settings say otherwise, in {auto['dtype']} ({auto['why']})."
    ]
