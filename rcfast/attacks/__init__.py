"""Attacks on point-based classifiers: one object each, `attack(model, x, labels) -> AttackResult`."""

from rcfast.attacks.base import Attack
from rcfast.attacks.result import AttackResult, Noise

__all__ = ["Attack", "AttackResult", "Noise"]
