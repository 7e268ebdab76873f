"""The strength of a LoRA by its own settings: alpha, rank-stabilised or not, for all modules or for some.

They are in ``adapter_config.json`` next to the file (PEFT), or in its header: ``lora_adapter_metadata`` (diffusers),
``ss_network_alpha`` (kohya, musubi-tuner). rsLoRA (arXiv 2312.03732) divides by the root of the rank.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from rollforge.backbones.safetensors_file import HEADER, read_header
from rollforge.errors import UserError
from rollforge.files.reading import parse_json, read_json

CONFIG = "adapter_config.json"
DIFFUSERS, KOHYA = "lora_adapter_metadata", "ss_network_alpha"
COMPONENT = "transformer."  # of a pipeline, before the names of its settings
OTHER = ("use_dora", "fan_in_fan_out", "modules_to_save")  # of PEFT, with another arithmetic
CHANGED_BASE = ("pissa", "olora", "corda", "loftq")  # initialisations that change the weights below the LoRA as well


@dataclass(frozen=True)
class Settings:
    """``alpha`` is None where nothing says it, and then is the rank; ``patterns`` are alphas of single modules."""

    alpha: float | None = None
    stabilised: bool = False
    patterns: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, file: Path, what: str) -> Self:
        """What the header of a LoRA file says, else the config next to it. Raises ``UserError`` for nonsense."""
        metadata = read_header(file, what).metadata if file.suffix == ".safetensors" else {}
        config = file.with_name(CONFIG)
        if DIFFUSERS in metadata:
            return cls._parsed(
                lambda: _without_component(parse_json(metadata[DIFFUSERS])), f"the header of {file}", what
            )
        if metadata.get(KOHYA, "None") != "None":
            return cls._parsed(lambda: {"lora_alpha": metadata[KOHYA]}, f"the header of {file}", what)
        if config.is_file():
            return cls._parsed(lambda: read_json(config, HEADER, "config"), str(config), what)
        return cls()

    @classmethod
    def _parsed(cls, content: Any, where: str, what: str) -> Self:
        try:
            settings = content()
            patterns = {str(name): _number(value) for name, value in (settings.get("alpha_pattern") or {}).items()}
            found = cls(_number(settings["lora_alpha"]), bool(settings.get("use_rslora")), patterns)
            start = str(settings.get("init_lora_weights", "")).lower()
            other = [name for name in OTHER if settings.get(name)]
            other += [f"init_lora_weights {name}" for name in CHANGED_BASE if name in start]
        except (ValueError, KeyError, TypeError, AttributeError, UserError) as error:
            raise UserError(
                f"{what}: {where} does not hold the settings of a LoRA ({error}); fetch it again."
            ) from error
        if other:
            raise UserError(f"{what}: {where} asks for {other[0]}, which is not known here; merge it with PEFT first.")
        return found

    def scale(self, names: Iterable[str], rank: int | None, alpha: float | None) -> float:
        """The factor of a change.

        Args:
            names: what its module is called, in each naming.
            rank: of the change; None where it has none, and then its alpha is of no account.
            alpha: the one that goes before those of the settings, if any.
        """
        if not rank:
            return 1.0
        of_pattern = next((value for key, value in self.patterns.items() if _named(key, names)), self.alpha)
        chosen = next((each for each in (alpha, of_pattern) if each is not None), float(rank))
        return chosen / (math.sqrt(rank) if self.stabilised else rank)


def _without_component(settings: Any) -> dict[str, Any]:
    """The settings of the transformer, without the component's name before each."""
    plain = {name: value for name, value in settings.items() if "." not in name}
    return plain | {
        name.removeprefix(COMPONENT): value for name, value in settings.items() if name.startswith(COMPONENT)
    }  # fmt: skip


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number) or isinstance(value, bool):
        raise ValueError(f"alpha is {value}")
    return number


def _named(pattern: str, names: Iterable[str]) -> bool:
    """Whether PEFT's pattern, the end of a module's name, is one of these names."""
    try:
        return any(re.fullmatch(rf"(?:.*\.)?(?:{pattern})", name) for name in names)
    except re.error:
        return pattern in names
