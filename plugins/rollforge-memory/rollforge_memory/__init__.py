"""Four ways to remember what has left the window: a bank, moving averages, retrieval, and a scored memory.

``MemFlow`` keeps the frames that fit the prompt, ``MemRoPE`` two averages of all that has left, ``LongLiveRAG``
retrieves frames like the last one, and ``TetherCache`` keeps frames that are attended to and far apart.
"""

from rollforge.registry import Register, hookimpl
from rollforge_memory.longlive_rag import LongLiveRAG
from rollforge_memory.memflow import MemFlow
from rollforge_memory.memrope import MemRoPE
from rollforge_memory.tether_cache import TetherCache

__all__ = ["LongLiveRAG", "MemFlow", "MemRoPE", "TetherCache"]
__version__ = "0.1.0"
rollforge_api = 1


@hookimpl
def rollforge_register_cache(register: Register) -> None:
    for policy in (LongLiveRAG, MemFlow, MemRoPE, TetherCache):
        register(policy)
