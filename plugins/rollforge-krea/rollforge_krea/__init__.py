"""Krea Realtime: the context is read again, under the current prompt, before every block."""

from rollforge.registry import Register, hookimpl
from rollforge_krea.policy import KreaRealtime

__all__ = ["KreaRealtime"]
__version__ = "0.1.0"
rollforge_api = 1


@hookimpl
def rollforge_register_cache(register: Register) -> None:
    register(KreaRealtime)
