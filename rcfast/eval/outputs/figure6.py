"""Figure 6: the confident targeted attack."""

from rcfast.eval.outputs.confidence import ConfidenceCurves


class Figure6(ConfidenceCurves):
    name, attack = "figure6", "T-CW-L2"
    title = "High-confidence targeted attack: success and noise"
    reading = (
        "How often the confident attack succeeds as k grows, with 95% bands, and the noise that it pays for"
        " it, with 95% intervals of the mean."
    )


OUTPUT = Figure6()
