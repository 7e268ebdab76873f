"""Weights of flow networks: those that come with the package, and files in torchvision's layout."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Literal

from rollforge.backbones.weights import load_weights
from rollforge.errors import UserError
from rollforge_motion.raft import Raft

Name = Literal["tiny", "small", "large"]


def shipped() -> Path:
    """The tiny network that was trained on the procedural world."""
    return Path(str(files("rollforge_motion") / "weights" / "world.safetensors"))


def load(weights: str | Path | None, layout: Name) -> Raft:
    """A network with the weights of a file; without one, those of the procedural world.

    Raises:
        UserError: for a file that cannot be read or has another layout, and where there is no file of this layout.
    """
    if weights is None and layout != "tiny":
        raise UserError(
            f"There are no weights of layout {layout} here; name a file, such as torchvision's raft_{layout}."
        )
    network = Raft(layout)
    load_weights(network, weights or shipped(), "network")
    return network.eval()
