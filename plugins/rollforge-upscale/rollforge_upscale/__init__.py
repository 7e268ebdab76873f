"""Video super-resolution after decode, for rollforge: a stage ``finish`` that ``rollforge fit`` trains."""

from rollforge.registry import Register, hookimpl

__version__ = "0.1.0"


@hookimpl
def rollforge_register_finish(register: Register) -> None:
    """Registers the stage; its module imports torch."""
    register("rollforge_upscale.upscale:Upscale")
