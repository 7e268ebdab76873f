"""rollforge: long-horizon autoregressive video diffusion. Train short, roll forever."""

__version__ = "0.1.0"
