"""A small model for rollforge that is not shaped like Wan, to read and to copy.

It generates one frame at a time, and a frame is a single token. It learns its time positions, predicts the clean frame
instead of a flow, is conditioned on a class instead of a text, and brings its own codec and dataset.
"""

from rollforge.registry import Register, hookimpl
from rollforge_frames.codec import SmallPictures
from rollforge_frames.conditioner import ShapeNames
from rollforge_frames.network import FrameTransformer
from rollforge_frames.shapes import MovingShapes

__version__ = "0.1.0"
rollforge_api = 1


@hookimpl
def rollforge_register_backbone(register: Register) -> None:
    register(FrameTransformer)


@hookimpl
def rollforge_register_conditioner(register: Register) -> None:
    register(ShapeNames)


@hookimpl
def rollforge_register_codec(register: Register) -> None:
    register(SmallPictures)


@hookimpl
def rollforge_register_dataset(register: Register) -> None:
    register(MovingShapes)
