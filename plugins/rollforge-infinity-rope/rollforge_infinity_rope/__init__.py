"""Infinity-RoPE: block-relative time indices, a flush at prompt switches, cuts."""

from rollforge.registry import Register, hookimpl
from rollforge_infinity_rope.policy import InfinityRope

__all__ = ["InfinityRope"]
__version__ = "0.1.0"
rollforge_api = 1


@hookimpl
def rollforge_register_cache(register: Register) -> None:
    register(InfinityRope)
