"""Flow networks behind ``Motion``, refined on generated video (arXiv 2401.00850)."""

from rollforge.registry import Register, hookimpl

__version__ = "0.1.0"

rollforge_api = 1


@hookimpl
def rollforge_register_flow(register: Register) -> None:
    """Registers the flow; its module imports torch."""
    register("rollforge_motion.flow:RaftFlow")


@hookimpl
def rollforge_register_dataset(register: Register) -> None:
    """Registers the datasets; what ``fit`` trains is named by its path."""
    register("rollforge_motion.data:MovingWorld")
    register("rollforge_motion.data:ShiftedWorld")
