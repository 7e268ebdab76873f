"""Feature spaces for rollforge: drift of a video as a DINO or a CLIP sees it, from weights that lie on this disk.

Nothing is ever downloaded. The feature space is an argument of the metric, so that another package can bring its own:
a subclass of ``rollforge_features.base.Features``.
"""

from rollforge.registry import Register, hookimpl

__version__ = "0.1.0"


@hookimpl
def rollforge_register_metric(register: Register) -> None:
    """Registers the metric; its module imports torch, and transformers only when weights are loaded."""
    register("rollforge_features.drift:FeatureDrift")
