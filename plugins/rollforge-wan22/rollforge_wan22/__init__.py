"""Wan 2.2 for rollforge: transformers and VAE of the 5B and A14B releases, from folders in diffusers' layout.

- ``layout`` reads what a folder holds: experts, their sizes, the boundary between them, the config of the VAE.
- ``backbone`` runs the experts: ``Wan22``.
- ``codec`` encodes and decodes video: ``Wan22VAE``.
"""

from rollforge.registry import Register, hookimpl

__version__ = "0.1.0"

rollforge_api = 1


@hookimpl
def rollforge_register_backbone(register: Register) -> None:
    """Registers the network; its module imports torch."""
    register("rollforge_wan22.backbone:Wan22")


@hookimpl
def rollforge_register_codec(register: Register) -> None:
    """Registers the VAE; its module imports torch, and diffusers when one is built."""
    register("rollforge_wan22.codec:Wan22VAE")
