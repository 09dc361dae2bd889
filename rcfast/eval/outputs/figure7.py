"""Figure 7: the confident untargeted attack."""

from rcfast.eval.outputs.confidence import ConfidenceCurves


class Figure7(ConfidenceCurves):
    name, attack, any_label = "figure7", "U-CW-L2", True
    title = "High-confidence untargeted attack: success and noise"
    reading = "As Figure 6, for an attack that any wrong label satisfies."


OUTPUT = Figure7()
