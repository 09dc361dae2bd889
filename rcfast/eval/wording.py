"""How to read each table and figure of the report, a sentence or two each, and how the numbers were made."""

from rcfast.eval.results import Results

CELLS = (
    "The large number is the success rate; its 95% interval stands beside it and as a line on the bar. "
    "Below it the mean noise ± standard error, with the number of successful examples behind it in "
    "brackets."
)
PAPER = (
    "The orange mark is the paper's value, said again below with the difference (ours minus the paper's); ✓"
    " means that it lies in our interval, ≠ that it does not."
)
READ = {
    "table2": "How many examples each part has. The validation part is benign and serves r alone.",
    "table3": (
        "The share of the benign test set that each defence labels correctly. A defence should cost nothing"
        " here: its interval should reach the accuracy of the point-based network."
    ),
    "table4": (
        "Each attack wants one given wrong label. A cell is the share of adversarial examples to which the "
        "defence answers that label: low is good for the defence."
    ),
    "table5": (
        "Any wrong label counts. Of all targets the adversarial example with the least noise that succeeds "
        "against the defence is handed in, so these rates lie above those of Table 4."
    ),
    "table6": "The least noisy success of several attacks: what an attacker who tries everything gets.",
    "figure1": (
        "Rows are true labels, columns the labels that the network answers; the benign images on the "
        "diagonal are framed. Compare along a row: how little has to change? A cross means that no example "
        "succeeded."
    ),
    "figure2": (
        "Bars say which labels the network gives to random points around the example named above them: blue"
        " is the true label, orange the target. Where blue is highest, the vote undoes the attack."
    ),
    "figure4": (
        "The vote's accuracy on benign validation examples as the region grows. A learnt r is the last "
        "length before the curve falls below the dashed line of the network itself."
    ),
    "figure5": (
        "As Figure 1, with a confidence meant to get past the vote; a cross means that no example "
        "succeeded. Where people no longer see the true label, the attack has changed more than the answer."
    ),
    "figure6": (
        "How often the confident attack succeeds as k grows, with 95% bands, and the noise that it pays for"
        " it, with 95% intervals of the mean."
    ),
    "figure7": "As Figure 6, for an attack that any wrong label satisfies.",
    "figure8": (
        "Adversarial examples pushed further along their own noise by the share alpha, with 95% bands: a "
        "small step may stay in the reach of the true label, a large one may leave the target's."
    ),
    "figure9": "As Figure 5, for the adapted attack.",
}
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
