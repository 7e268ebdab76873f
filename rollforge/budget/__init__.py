"""What a rollout needs in memory, before it starts: a table of bytes, and the settings that would fit."""

from rollforge.budget.budget_check import BudgetCheck
from rollforge.budget.free import free_memory
from rollforge.budget.lines import budget_of
from rollforge.budget.memory_check import MemoryCheck
from rollforge.budget.memory_input import Decoding, MemoryInput, work_of
from rollforge.budget.settings import fitting, savings
from rollforge.budget.table import Budget, Line, readable

__all__ = [
    "Budget",
    "BudgetCheck",
    "Decoding",
    "Line",
    "MemoryCheck",
    "MemoryInput",
    "budget_of",
    "fitting",
    "free_memory",
    "readable",
    "savings",
    "work_of",
]
