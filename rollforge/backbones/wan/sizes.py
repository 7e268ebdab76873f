"""The sizes of a Wan network: given, or read off the shapes of its weights, or those of the 1.3B model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self

from rollforge.backbones.tensors import Tensors
from rollforge.errors import UserError
from rollforge.ranges import Range

Width = Annotated[int, Range(1, 65_536)]  # more is a slip of the pen: no network is as wide
EvenWidth = Annotated[int, Range(2, 65_536, step=2)]
Layers = Annotated[int, Range(1, 1_000)]
Grid = Annotated[int, Range(1, 4_096)]  # latent rows or columns
Frames = Annotated[int, Range(1, 1_000_000)]  # latent frames
Rate = Annotated[float, Range(0.01, 1_000)]  # latent frames per second

HEAD_DIM = 128  # of every published size; shapes do not show it
PUBLISHED = {"channels": 16, "dim": 1536, "layers": 30, "ffn_dim": 8960, "freq_dim": 256, "text_dim": 4096}
SHOWN_BY = {  # the weight and the axis that show a size
    "channels": ("patch_embedding.weight", 1),
    "dim": ("patch_embedding.weight", 0),
    "ffn_dim": ("blocks.0.ffn.0.weight", 0),
    "freq_dim": ("time_embedding.0.weight", 1),
    "text_dim": ("text_embedding.0.weight", 1),
}


@dataclass(frozen=True)
class Sizes:
    """What decides the shapes of the weights, and ``heads``, which does not."""

    channels: int
    dim: int
    layers: int
    heads: int
    ffn_dim: int
    freq_dim: int
    text_dim: int

    @classmethod
    def resolve(cls, what: str, found: Tensors | None = None, **given: int | None) -> Self:
        """What is given, else what the weights ``found`` show, else the published 1.3B size.

        Raises ``UserError`` for a number of heads that does not divide the width, or cannot be determined.
        """
        sizes = PUBLISHED | shown(found or {}) | {name: size for name, size in given.items() if size is not None}
        dim, heads = sizes["dim"], sizes.pop("heads", None)
        if heads is None:
            if dim < HEAD_DIM or dim % HEAD_DIM:
                raise UserError(f"{what}: how many heads share dim {dim} is unknown; set heads.")
            heads = dim // HEAD_DIM
        if heads < 1 or dim % heads:
            raise UserError(f"{what}: dim {dim} cannot be shared out to {heads} heads.")
        return cls(heads=heads, **sizes)


def shown(found: Tensors) -> dict[str, int]:
    """The sizes that weights under their original names show."""
    sizes = {
        size: found[name].shape[axis]
        for size, (name, axis) in SHOWN_BY.items()
        if name in found and len(found[name].shape) > axis
    }
    blocks = {name.split(".")[1] for name in found if name.startswith("blocks.")}
    return sizes | ({"layers": len(blocks)} if blocks else {})
