"""LongLive's other caches. ``LongLive`` itself, with absolute time indices, is built into rollforge."""

from rollforge.registry import Register, hookimpl
from rollforge_longlive.infinity import LongLiveInfinity
from rollforge_longlive.shots import LongLive2

__all__ = ["LongLive2", "LongLiveInfinity"]
__version__ = "0.1.0"
rollforge_api = 1


@hookimpl
def rollforge_register_cache(register: Register) -> None:
    register(LongLiveInfinity)
    register(LongLive2)
