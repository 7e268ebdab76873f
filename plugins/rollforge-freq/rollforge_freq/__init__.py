"""FreqForcing: past the horizon, the low frequencies of attention follow early frames that are kept.

``FreqForcing`` adds a second read, of the early frames, to any cache policy; ``LowPassBlend`` joins both. Source:
FreqForcing (arXiv 2607.27110).
"""

from rollforge.registry import Register, hookimpl
from rollforge_freq.combine import LowPassBlend
from rollforge_freq.policy import FreqForcing

__all__ = ["FreqForcing", "LowPassBlend"]
__version__ = "0.1.0"
rollforge_api = 1


@hookimpl
def rollforge_register_cache(register: Register) -> None:
    register(FreqForcing)


@hookimpl
def rollforge_register_combine(register: Register) -> None:
    register(LowPassBlend)
