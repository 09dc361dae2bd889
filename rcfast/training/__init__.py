"""Training: `fit`, its adversarial and distilled forms, and checkpoints that are data, not code."""

from .accuracy import Accuracy, evaluate
from .adversarial import fit_adversarial
from .checkpoints import load_model, save_model
from .distilled import distilled_recipe, fit_distilled
from .engine import TrainingResult
from .recipe import RECIPES, Recipe, recipe_for
from .standard import fit

__all__ = [
    "RECIPES",
    "Accuracy",
    "Recipe",
    "TrainingResult",
    "distilled_recipe",
    "evaluate",
    "fit",
    "fit_adversarial",
    "fit_distilled",
    "load_model",
    "recipe_for",
    "save_model",
]
