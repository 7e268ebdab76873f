"""rollforge: long-horizon autoregressive video diffusion. Train short, roll forever."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rollforge import renamed

if TYPE_CHECKING:
    from rollforge.commands.load import load

__all__ = ["API", "OLDEST_API", "__version__", "load"]

__version__ = "0.2.0"
API = 1
"""Version of the contracts that plugins are written for. It grows when a change breaks older plugins."""
OLDEST_API = 1
"""The oldest version of the contracts whose plugins still work."""

renamed.install()


def __getattr__(name: str) -> Any:
    """Imports ``load`` when it is first used: ``import rollforge`` does not import torch."""
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rollforge.commands.load import load

    return load
