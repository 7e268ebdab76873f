"""Cache policies: what each block attends to, as tables of integers."""

from rollforge.policies.attention_sink import AttentionSink
from rollforge.policies.base import CachePolicy
from rollforge.policies.long_live import LongLive
from rollforge.policies.rolling_sink import RollingSink
from rollforge.policies.sliding_indices import SlidingIndices
from rollforge.policies.window import Window
from rollforge.policies.wrapper import PolicyWrapper

__all__ = ["AttentionSink", "CachePolicy", "LongLive", "PolicyWrapper", "RollingSink", "SlidingIndices", "Window"]
