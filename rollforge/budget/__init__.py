"""What a rollout needs in memory, said before anything is rolled: a table of bytes, and the settings that would fit."""

from rollforge.budget.check import Guard
from rollforge.budget.free import free_memory
from rollforge.budget.lines import budget_of
from rollforge.budget.settings import fitting, savings
from rollforge.budget.table import Budget, Line, readable
from rollforge.budget.work import Decoding, Work, work_of

__all__ = [
    "Budget",
    "Decoding",
    "Guard",
    "Line",
    "Work",
    "budget_of",
    "fitting",
    "free_memory",
    "readable",
    "savings",
    "work_of",
]
