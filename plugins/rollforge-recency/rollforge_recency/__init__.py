"""Recency Forcing: a bias towards recent chunks, and a far history that only some layers and denoising steps read.

``RecencyForcing`` is the window with its bias, ``ReadLocus`` adds the far history to any policy. Both need no training.
Source: Recency Forcing (arXiv 2609.19729).
"""

from rollforge.registry import Register, hookimpl
from rollforge_recency.locus import ReadLocus
from rollforge_recency.policy import RecencyForcing

__all__ = ["ReadLocus", "RecencyForcing"]
__version__ = "0.1.0"
rollforge_api = 1


@hookimpl
def rollforge_register_cache(register: Register) -> None:
    register(RecencyForcing)
    register(ReadLocus)
