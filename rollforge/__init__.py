"""rollforge: long-horizon autoregressive video diffusion. Train short, roll forever."""

from rollforge import renamed

__version__ = "0.1.0"

renamed.install()
