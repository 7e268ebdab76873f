"""Temporally persistent features of video (arXiv 2104.14558): four methods, one encoder, and metrics in its space."""

from rollforge.registry import Register, hookimpl

__version__ = "0.1.0"

rollforge_api = 1


@hookimpl
def rollforge_register_dataset(register: Register) -> None:
    """Registers the datasets; the methods are named by their paths."""
    register("rollforge_persistence.clips:WorldPairs")
    register("rollforge_persistence.clips:VideoPairs")
