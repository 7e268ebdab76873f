"""The loop: one rollout in progress, block by block."""

from rollforge.rollout.iterator import Block, RolloutIterator
from rollforge.rollout.rollout import Rollout

__all__ = ["Block", "Rollout", "RolloutIterator"]
