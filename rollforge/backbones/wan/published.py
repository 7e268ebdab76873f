"""Where the files that a config of the Wan family names are published."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from rollforge.backbones.hub import HubName
from rollforge.backbones.tensors import SUFFIXES
from rollforge.backbones.wan import codec_weights, locate, text_files
from rollforge.backbones.wan.generator import lora_strengths
from rollforge.backbones.weights import named
from rollforge.errors import UserError

WHO = "rollforge fetch"
REPOSITORIES = {  # a local folder is known by the last part of the repository's name
    "Wan-AI/Wan2.1-T2V-1.3B": (),
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": (),
    "Wan-AI/Wan2.1-T2V-14B": (),
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": (),
    "gdhe17/Self-Forcing": ("checkpoints/self_forcing_dmd.pt", "checkpoints/self_forcing_sid.pt"),
    "zhuhz22/Causal-Forcing": (
        "chunkwise/causal_forcing.pt", "framewise/causal_forcing.pt", "causal-forcing++/framewise-2step.pt",
        "causal-forcing++/framewise-1step.pt",
    ),
    "Efficient-Large-Model/LongLive-1.3B": ("models/longlive_base.pt", "models/lora.pt"),
    "tianweiy/CausVid": ("autoregressive_checkpoint/model.pt",),
}  # fmt: skip
"""Repositories of the family, and the files in them; a local file is known by its path there."""


@dataclass(frozen=True)
class Need:
    """A file or folder that a config names: under which option, as what, and whether it is on this machine.

    ``source`` is where it is published, ``folder`` where to download it to (None: the hub's cache), ``patterns`` which
    files of a repository. ``source`` is None where nobody knows.
    """

    option: str
    name: str
    here: bool
    source: HubName | None
    folder: str | None
    patterns: tuple[str, ...]


def needs(parts: Mapping[str, tuple[str, Mapping[str, Any]]]) -> list[Need]:
    """What a config names, one for each download.

    Args:
        parts: class and arguments of ``backbone``, ``conditioner`` and ``codec``.
    """
    found: list[Need] = []
    for need in _all(parts):
        same = next((n for n, each in enumerate(found) if _where(each) == _where(need)), None)
        if same is None or need.source is None:
            found.append(need)
            continue
        other = found[same]
        patterns = tuple(dict.fromkeys((*other.patterns, *need.patterns)))
        option = f"{other.option}, {need.option}"
        found[same] = replace(other, option=option, patterns=patterns, here=other.here and need.here)
    return found


def _where(need: Need) -> tuple[Any, ...]:
    return str(need.source), need.folder


def _all(parts: Mapping[str, tuple[str, Mapping[str, Any]]]) -> Iterator[Need]:
    for part, (kind, arguments) in parts.items():
        option = f"model.{part}"
        weights, folder = named(arguments.get("weights")), arguments.get("folder")
        if isinstance(folder, str) and HubName.parse(folder):  # of a plugin: all of the repository
            yield _need(f"{option}.folder", folder, ("*",), lambda name: None)
        if weights is None:
            continue
        if kind == "Wan":
            yield _need(f"{option}.weights", weights, locate.PATTERNS, lambda name: locate.locate(name, WHO))
            for lora in lora_strengths(arguments.get("lora"), WHO):
                yield _need(f"{option}.lora", lora, locate.LORA_PATTERNS, lambda name: locate.locate_lora(name, WHO))
        elif kind == "UMT5":
            yield _need(f"{option}.weights", weights, text_files.PATTERNS, _encoder)
            if tokenizer := arguments.get("tokenizer"):
                yield _need(f"{option}.tokenizer", tokenizer, text_files.TOKENIZER_FILES, lambda name: None)
        elif kind == "WanVAE":
            yield _need(f"{option}.weights", weights, codec_weights.PATTERNS, codec_weights.locate)
        elif kind == "TinyWanDecoder":
            yield Need(f"{option}.weights", weights, Path(weights).expanduser().exists(), None, None, ())
        elif HubName.parse(weights, SUFFIXES):  # likewise
            yield _need(f"{option}.weights", weights, ("*",), lambda name: None)


def _encoder(name: str) -> object:
    return text_files.encoder_of(Path(name).expanduser())


def _need(option: str, name: str, patterns: tuple[str, ...], look: Callable[[str], Any]) -> Need:
    path = Path(name).expanduser()
    if not path.exists() and (hub := HubName.parse(name, SUFFIXES)):
        return Need(option, name, False, hub, None, patterns)
    source, folder = _published(path)
    return Need(option, name, path.exists() and _complete(name, look), source, folder, patterns)


def _complete(name: str, look: Callable[[str], Any]) -> bool:
    try:
        look(name)
    except UserError:
        return False
    return True


def _published(path: PurePath) -> tuple[HubName | None, str | None]:
    """The hub name of a local path, and the folder to download it to so that it has that path."""
    for repository, files in REPOSITORIES.items():
        if path.name == repository.rpartition("/")[2]:
            return HubName(repository), str(path)
        for file in files:
            parts = PurePath(file).parts
            if path.parts[-len(parts) :] == parts:
                return HubName(repository, file), str(PurePath(*path.parts[: -len(parts)]))
    return None, None
