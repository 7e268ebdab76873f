"""The loop: one rollout in progress, block by block."""

from rollforge.rollout.iterator import RolloutIterator
from rollforge.rollout.rollout import Rollout
from rollforge.rollout.steps import Block

__all__ = ["Block", "Rollout", "RolloutIterator"]
