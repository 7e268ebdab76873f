"""SkyReels-V2 diffusion forcing for rollforge: the network of diffusers, its self-attention routed through a memory.

Paper: SkyReels-V2: Infinite-length Film Generative Model (arXiv 2504.13074).
"""

from rollforge.registry import Register, hookimpl

__version__ = "0.1.0"
rollforge_api = 1


@hookimpl
def rollforge_register_backbone(register: Register) -> None:
    """Registers the network by name; diffusers is imported when a network is built."""
    register("rollforge_skyreels.network:SkyReels")
