"""rollforge: long-horizon autoregressive video diffusion. Train short, roll forever."""

from rollforge import renamed

__version__ = "0.1.0"
API = 1
"""The number of the contracts that plugins are written for. It grows when one changes so that older parts fail."""
OLDEST_API = 1
"""The oldest of these numbers whose parts still work."""

renamed.install()
