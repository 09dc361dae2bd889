"""What the chosen number of examples can show, said before anything is measured."""

from rcfast.eval.run.config import TARGETED, Config
from rcfast.eval.run.protocol import COMBINED
from rcfast.eval.statistics import compatible_with, detectable_drop, fewest_discordant, wilson

FEW = 30  # examples below which intervals are wide


def comparisons(config: Config) -> int:
    """Return how many attacks of Tables 4 to 6 a defence is compared on."""
    named = {name.removeprefix("T-") for name in config.attacks.names if name in TARGETED}
    combined = [members for members in COMBINED.values() if named.issuperset(members)]
    return 2 * len(named) + ("DeepFool" in config.attacks.names) + 2 * len(combined)


def power(examples: int, compared: int) -> str:
    """Return in a sentence what so many examples can show, where a defence is compared on so many attacks."""
    half = wilson(examples / 2, examples)
    said = f"with {examples} examples an untargeted rate of 0 is compatible with up to "
    said += f"{compatible_with(examples):.0%}, one of 50% with {half.low:.0%} to {half.high:.0%}"
    if not compared:
        return said
    drop, fewest = detectable_drop(examples, compared), fewest_discordant(compared)
    said += f"; among {compared} attacks a defence is said to do clearly better where at least {fewest} examples differ"
    if drop is None:
        return f"{said}, which these cannot"
    return f"{said}: a drop of {100 * drop:.0f} points is seen in four of five runs"
