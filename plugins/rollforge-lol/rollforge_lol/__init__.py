"""LoL: rotary positions whose base differs from head to head, so that heads do not come into phase together.

Source: LoL, per-head RoPE jitter.
"""

from rollforge.registry import Register, hookimpl
from rollforge_lol.positions import JitteredRope

__all__ = ["JitteredRope"]
__version__ = "0.1.0"
rollforge_api = 1


@hookimpl
def rollforge_register_positions(register: Register) -> None:
    register(JitteredRope)
