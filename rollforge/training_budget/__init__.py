"""What a training needs in memory, computed before its first step."""

from rollforge.training_budget.check import Recipe, TrainingCheck

__all__ = ["Recipe", "TrainingCheck"]
