"""Memories: what a backbone attends to, and at which time indices."""

from rollforge.memory.base import Memory, Now
from rollforge.memory.cached import CachedMemory, MakeMemory
from rollforge.memory.combine import BlendBranches, Combine
from rollforge.memory.full import FullMemory
from rollforge.memory.gradient import GradientMemory
from rollforge.memory.hub_kernels import FlashAttention3, SageAttention
from rollforge.memory.kernels import Attention, Sdpa
from rollforge.memory.kv_codec import IdentityKVCodec, KVCodec
from rollforge.memory.masked import MaskedMemory
from rollforge.memory.rollout import RolloutMemory
from rollforge.memory.routed import RoutedMemory
from rollforge.positions import FixedPositions, NoPositions, Positions, Rope

__all__ = [
    "Attention", "BlendBranches", "CachedMemory", "Combine", "FixedPositions", "FlashAttention3", "FullMemory",
    "GradientMemory", "IdentityKVCodec", "KVCodec", "MakeMemory", "MaskedMemory", "Memory", "NoPositions", "Now",
    "Positions", "RolloutMemory", "Rope", "RoutedMemory", "SageAttention", "Sdpa",
]  # fmt: skip
