"""Memories: what a backbone's ``attend`` talks to."""

from rollforge.memory.base import Memory, Now
from rollforge.memory.full import FullMemory
from rollforge.memory.kv_codec import IdentityKVCodec, KVCodec
from rollforge.memory.masked import MaskedMemory
from rollforge.memory.rollout import RolloutMemory
from rollforge.memory.rope import Rope

__all__ = ["FullMemory", "IdentityKVCodec", "KVCodec", "MaskedMemory", "Memory", "Now", "RolloutMemory", "Rope"]
