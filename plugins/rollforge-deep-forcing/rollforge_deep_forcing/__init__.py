"""Deep Forcing: a deep sink, and a middle of the window of which only the tokens that matter are kept.

Source: Deep Forcing, its deep sink and participative compression.
"""

from rollforge.registry import Register, hookimpl
from rollforge_deep_forcing.policy import DeepForcing

__all__ = ["DeepForcing"]
__version__ = "0.1.0"
rollforge_api = 1


@hookimpl
def rollforge_register_cache(register: Register) -> None:
    register(DeepForcing)
