"""The versions of the code that decides stored results: part of their keys, raised when equal inputs give others."""

NETWORK = 2  # training and models
ATTACKED = 2  # how a network is attacked while it is trained
LENGTH = 2  # the search for r, with its stopping rule
EXAMPLES = 2  # which examples are drawn
ATTACK = 12  # what an attack finds with the same settings
# Of attacks on networks that alone have changed since ATTACK was raised; emptied when it is raised again.
REVISED: dict[str, int] = {}
LABELS = 2  # the vote
CERTIFICATE = 1  # bounds and theorems
CHECKS = 2  # what the checks observe
JUDGED = 1  # what unseen votes say of adversarial examples
COMPARISON = 2  # sizes and labels of compared votes, and the attack on them


def on_network(attack: str) -> int | list[int]:
    """The version of one attack on a network."""
    return [ATTACK, REVISED[attack]] if attack in REVISED else ATTACK
