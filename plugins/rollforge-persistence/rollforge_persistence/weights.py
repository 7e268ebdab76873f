"""Weights of an encoder in a file, with how its features are standardised and what the probe reads."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from rollforge.backbones.tensors import numbers, open_file
from rollforge.backbones.weights import check_fit
from rollforge.errors import UserError
from rollforge.files.writing import write_tensors
from rollforge_persistence.encoder import Encoder
from rollforge_persistence.probe import Probe, Standard

ENCODER = "encoder."
FIRST = "frames.0.weight"
READ = {"identity": ("colour", "shape"), "scene": ("ground", "time")}
"""The labels whose linear layers span each part of the features."""


def shipped() -> Path:
    """The encoder that comes with the package."""
    return Path(str(files("rollforge_persistence") / "weights" / "world.safetensors"))


def load(file: Path) -> tuple[Encoder, dict[str, Tensor]]:
    """An encoder for inference, of the width in the file, and the other tensors of the file.

    ``fit`` writes an encoder alone; ``rollforge probe-encoder --save`` adds the rest.

    Raises:
        UserError: for a file that cannot be read, or is not of an encoder.
    """
    found = {name: numbers(stored, "Encoder", torch.float32) for name, stored in open_file(file, "Encoder").items()}
    weights = {name.removeprefix(ENCODER): value for name, value in found.items() if "." in name}
    if FIRST not in weights or weights[FIRST].ndim != 4 or not weights[FIRST].numel():
        raise UserError(
            f"{file} holds no encoder (there is no {FIRST}); name an encoder.safetensors that rollforge fit wrote."
        )
    encoder = Encoder(4 * len(weights[FIRST]))
    check_fit(encoder.state_dict(), weights, "Encoder", file)
    encoder.load_state_dict(weights)
    return encoder.eval().requires_grad_(False), {name: value for name, value in found.items() if "." not in name}


def save(file: Path, encoder: Encoder, found: Probe) -> None:
    """Writes an encoder in half precision, how its features are standardised, and the directions that the probe reads.

    Raises ``NotWritten`` where the disk does not take it.
    """
    tensors = {f"{ENCODER}{name}": value.half().contiguous() for name, value in encoder.state_dict().items()}
    tensors |= {"mean": found.standard.mean, "scale": found.standard.scale}
    tensors |= {part: directions([found.layers[name] for name in names]) for part, names in READ.items()}
    write_tensors(file, tensors, {"format": "pt"})


def directions(layers: list[Tensor]) -> Tensor:
    """An orthonormal basis ``[R, D]`` of what linear layers ``[K, D]`` tell apart; what all classes share is out."""
    rows = torch.cat([layer - layer.mean(0) for layer in layers])
    _, sizes, basis = torch.linalg.svd(rows, full_matrices=False)
    return basis[sizes > 1e-4 * sizes[0]].contiguous()


def standard(found: dict[str, Tensor], width: int) -> Standard:
    """How features are standardised; not at all where the file does not say.

    Raises ``UserError`` for stored tensors of another shape than the encoder's features ask for.
    """
    for name, value in found.items():
        expected = (len(value), width) if value.ndim and name in READ else (width,)
        if value.shape != expected:
            raise UserError(
                f"The encoder gives features of width {width}, and the stored {name} has the shape {[*value.shape]}; "
                "write the file again with rollforge probe-encoder --save."
            )
    return Standard(found.get("mean", torch.zeros(width)), found.get("scale", torch.ones(width)))
