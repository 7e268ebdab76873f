"""One video on several processes: context parallelism over the tokens of a block."""

from rollforge.parallel.division import Division, check_processes, divide
from rollforge.parallel.group import ContextGroup
from rollforge.parallel.memory import ShareMemory
from rollforge.parallel.tokens import TokenShares

__all__ = ["ContextGroup", "Division", "ShareMemory", "TokenShares", "check_processes", "divide"]
