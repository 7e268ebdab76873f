"""``rollforge plugins check``: the checks of ``rollforge.testing`` on an installed part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from torch import nn

from rollforge import testing
from rollforge.backbones.base import Condition
from rollforge.commands.config_parts import ConfigParts, parts_of
from rollforge.errors import UserError
from rollforge.registry import Part, registry

LARGEST = 50_000_000
"""Numbers in a network that is checked: some copies of it are made."""
CHECKS: dict[str, Callable[..., None]] = {
    "cache": testing.check_policy,
    "sampler": testing.check_sampler,
    "codec": testing.check_codec,
    "finish": testing.check_finish,
    "noise": testing.check_noise,
    "kv_codec": testing.check_kv_codec,
    "metric": testing.check_metric,
    "flow": testing.check_flow,
    "positions": testing.check_positions,
    "combine": testing.check_combine,
    "attention": testing.check_attention,
    "conditioner": testing.check_conditioner,
    "objective": testing.check_objective,
    "matching": testing.check_matching,
    "dataset": testing.check_dataset,
}


def check(name: str, config: Sequence[str], rest: Sequence[str], tolerance: float | None) -> str:
    """Checks a part built from its defaults, or as a config has it. Returns what to say.

    Raises ``UserError`` with the rule that it breaks.
    """
    registry().require(name)
    part = registry().find(name)
    options = _options(part, tolerance)
    try:
        if config:
            with parts_of(config, rest) as parts:
                _run(part, _configured(part, parts), options, parts)
        else:
            _run(part, _default(part), options, None)
    except testing.CheckFailed as failure:
        raise UserError(str(failure)) from failure
    return f"{name} ({part.kind}, from {part.origin}) passes the check of its kind."


def _options(part: Part, tolerance: float | None) -> dict[str, Any]:
    if tolerance is None:
        return {}
    if part.kind in CHECKS and "tolerance" not in signature(CHECKS[part.kind]).parameters:
        raise UserError(f"The check of a {part.kind} takes no --tolerance; leave it out.")
    return {"tolerance": tolerance}


def _run(part: Part, made: Any, options: dict[str, Any], parts: ConfigParts | None) -> None:
    if part.kind == "memory":
        testing.check_memory(made, **options)
    elif part.kind == "backbone":
        testing.check_backbone(made, _two_prompts(part, made, parts), **options)
    elif part.kind in CHECKS:
        CHECKS[part.kind](made, **options)
    else:
        raise UserError(f"There is no check for a {part.kind}; see docs/plugins.md.")


def _default(part: Part) -> Any:
    """A part with the defaults of its constructor."""
    kind = part.load()
    if part.kind == "memory":
        return kind
    try:
        if (size := _size(kind)) > LARGEST:
            raise UserError(
                f"{part.name} has {size / 1e6:,.0f} million numbers by default, and the check makes copies of it; "
                "name a small one in a --config."
            )
        torch.manual_seed(0)
        return kind()
    except TypeError as error:
        raise UserError(f"{part.name} needs arguments ({error}); name it in a --config.") from error


def _size(kind: type) -> int:
    """How many numbers a network has by default, as far as that can be told without making them."""
    if not issubclass(kind, nn.Module):
        return 0
    try:
        with torch.device("meta"), catch_warnings():
            simplefilter("ignore")  # weights that it loads stay on the meta device
            return sum(each.numel() for each in kind().parameters())
    except (RuntimeError, NotImplementedError):  # it computes with its weights while it is built
        return 0


def _configured(part: Part, parts: ConfigParts) -> Any:
    made = parts.named(part)
    if made is None:
        raise UserError(f"The config names no {part.name}; name it there, or leave out --config to take its defaults.")
    return made


def _two_prompts(part: Part, backbone: Any, parts: ConfigParts | None) -> Condition:
    """Features that a network takes: of the config's conditioner, of its package's only one, or random ones."""
    own = [each for each in registry().of("conditioner") if each.origin == part.origin]
    conditioner = parts.build("conditioner") if parts else _default(own[0]) if len(own) == 1 else None
    if conditioner is not None:
        found: Condition = conditioner(list(conditioner.examples))
        return found
    length, width = getattr(backbone, "text_len", 4), getattr(backbone, "text_dim", 64)
    return Condition("check", torch.randn(2, length, width, generator=torch.Generator().manual_seed(1)))
