"""The five stages of a run, in their order: train, attack, vote, tabulate, draw."""
