"""``rollforge convert``: published weights of a Wan transformer to one safetensors file that says where it is from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from rollforge import __version__
from rollforge.backbones.tensor_writer import write_safetensors
from rollforge.backbones.tensors import Tensors
from rollforge.backbones.wan.checkpoint import Checkpoint, open_checkpoint
from rollforge.backbones.wan.generator import DTYPES
from rollforge.backbones.wan.locate import locate_lora
from rollforge.backbones.wan.lora import merge, open_lora
from rollforge.backbones.wan.names import to_diffusers
from rollforge.backbones.wan.network import Wan
from rollforge.backbones.wan.sizes import shown
from rollforge.backbones.weights import check_fit
from rollforge.commands.arguments import Arguments, file, number, path
from rollforge.commands.output import print_out
from rollforge.errors import UserError
from rollforge.files.reading import open_regular
from rollforge.ranges import Finite, Positive

WHO = "rollforge convert"
CHUNK = 1 << 22  # bytes


def run(arguments: list[str]) -> None:
    """Converts one checkpoint."""
    parser = Arguments(prog=WHO, description="Write published weights of a Wan transformer as one safetensors file.")
    parser.add_argument("source", type=path, help="a .pt or .safetensors file, a folder, or a hub name")
    parser.add_argument("destination", type=file, help="the .safetensors file to write")
    parser.add_argument("--ema", choices=["true", "false"], help="averaged or trained weights, where there are both")
    parser.add_argument("--layout", choices=["wan", "diffusers"], default="wan", help="names to write (default wan)")
    parser.add_argument("--dtype", choices=["keep", *DTYPES], default="keep", help="number format (default keep)")
    parser.add_argument(
        "--lora", type=path, action="append", default=[], help="a LoRA to merge into the weights; may be repeated"
    )
    parser.add_argument("--lora_alpha", type=number(Positive), help="its alpha (default: as it says, else its rank)")
    parser.add_argument(
        "--lora_strength",
        type=number(Finite),
        action="append",
        default=[],
        help="of each LoRA, in their order (default 1)",
    )
    chosen = parser.parse_args(arguments)
    _check(chosen.destination)
    ema = None if chosen.ema is None else chosen.ema == "true"
    checkpoint = open_checkpoint(chosen.source, WHO, ema)
    _check_network(checkpoint)
    tensors = checkpoint.tensors
    loras = _strengths(chosen.lora, chosen.lora_strength)
    changes = [
        change for file, strength in loras.items() for change in open_lora(file, WHO, chosen.lora_alpha, strength)
    ]
    tensors = merge(tensors, changes, WHO)
    about = describe(checkpoint) | describe_loras(loras, chosen.lora_alpha)
    if chosen.layout == "diffusers":
        tensors = {to_diffusers(name): stored for name, stored in tensors.items()}
    write(chosen.destination, tensors, about | {"layout": chosen.layout}, DTYPES.get(chosen.dtype))
    count = sum(stored.count for stored in tensors.values())
    taken = f" ({checkpoint.taken})" if checkpoint.taken else ""
    print_out(f"{checkpoint.file}{taken}: {count:,} parameters\n\nOpen:\n  {chosen.destination}\n")


def describe(checkpoint: Checkpoint) -> dict[str, str]:
    """What the converted file says of its source."""
    return {
        "format": "pt",
        "rollforge": __version__,
        "source": ", ".join(file.name for file in checkpoint.files),
        "source_sha256": checksums(checkpoint.files),
        "taken": checkpoint.taken or "all",
    }


def describe_loras(loras: Mapping[str, float], alpha: float | None) -> dict[str, str]:
    """What it says of the LoRAs in it; alpha and strengths only where they were given."""
    if not loras:
        return {}
    files = [locate_lora(name, WHO) for name in loras]
    about = {"lora": ", ".join(file.name for file in files), "lora_sha256": checksums(files)}
    if any(strength != 1 for strength in loras.values()):
        about["lora_strength"] = ", ".join(map(str, loras.values()))
    return about if alpha is None else about | {"lora_alpha": str(alpha)}


def _strengths(files: list[str], strengths: list[float]) -> dict[str, float]:
    if strengths and len(strengths) != len(files):
        raise UserError(
            f"{WHO}: {len(files)} --lora and {len(strengths)} --lora_strength were given; give one strength for each "
            "LoRA, or none."
        )
    return dict(zip(files, strengths or [1.0] * len(files), strict=True))


def checksums(files: Iterable[Path]) -> str:
    """SHA-256 of each file, in order, under a bar."""
    return ", ".join(_checksum(file) for file in files)


def write(destination: Path, tensors: Tensors, metadata: dict[str, str], dtype: torch.dtype | None) -> None:
    """Writes the tensors under a bar."""
    total = sum(stored.count * (dtype or stored.dtype).itemsize for stored in tensors.values())
    with _bar("writing", total) as bar:
        write_safetensors(destination, tensors, metadata, WHO, dtype, bar.update)


def _check(destination: Path) -> None:
    if destination.suffix != ".safetensors":
        raise UserError(f"{WHO}: the destination {destination} must end in .safetensors.")
    if destination.exists():
        raise UserError(f"{WHO}: {destination} exists already; choose another name, or move it away.")


def _check_network(checkpoint: Checkpoint) -> None:
    """Raises ``UserError`` unless these are the weights of a Wan network of some size."""
    sizes: dict[str, Any] = {**shown(checkpoint.tensors), "heads": 1, "height": 2, "width": 2}
    with torch.device("meta"):
        network = Wan(**sizes)
    check_fit(network.state_dict(), checkpoint.tensors, WHO, checkpoint.file)


def _checksum(file: Path) -> str:
    hasher = sha256()
    try:
        with open_regular(file) as opened, _bar("checking", file.stat().st_size) as bar:
            while chunk := opened.read(CHUNK):
                hasher.update(chunk)
                bar.update(len(chunk))
    except OSError as error:
        raise UserError(f"{WHO}: {file} cannot be read ({error.strerror}); check the path.") from error
    return hasher.hexdigest()


@contextmanager
def _bar(label: str, size: int) -> Iterator[tqdm]:
    with tqdm(desc=f"{label:14}", total=size, unit="B", unit_scale=True, unit_divisor=1024) as bar:
        yield bar
