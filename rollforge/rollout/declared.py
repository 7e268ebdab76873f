"""Checks what the components of a rollout say of themselves, before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from rollforge.borders import WrongAnswer, whole
from rollforge.errors import attribute_errors
from rollforge.positions import Positions
from rollforge.samplers.base import Sampler
from rollforge.spec import ModelSpec

if TYPE_CHECKING:
    from rollforge.rollout.components import RolloutComponents


def check_declared(rollout: RolloutComponents) -> None:
    """Raises ``UserError`` for an attribute that is not what its contract says; it names the component."""
    policy, sampler, backbone = rollout.policy, rollout.sampler, rollout.backbone
    _attribute("backbone", backbone, "spec", "a ModelSpec", lambda value: isinstance(value, ModelSpec))
    if not isinstance(rollout.positions, Positions):
        raise WrongAnswer("backbone", backbone, rollout.positions, "as positions", "an object of class Positions")
    layers = "layers as a tuple of whole numbers, or 'all'"
    _attribute("cache policy", policy, "observes", layers, lambda value: value == "all" or _all(value, whole))
    for name in ("sees", "whole"):
        _attribute("cache policy", policy, name, "a tuple of texts", lambda value: _all(value, _text))
    for name in ("branches", "denoising_steps"):
        _attribute("cache policy", policy, name, "a whole number of 1 or more", _count)
    _attribute("sampler", sampler, "timesteps", "a sequence of numbers", lambda value: _all(value, _number))
    _attribute("sampler", sampler, "in_flight", "a whole number of 1 or more", _count)
    longest_pass(sampler, backbone.spec.block)


def longest_pass(sampler: Sampler, block: int) -> int:
    """What ``passes`` of a sampler returned, if it is a number of frames."""
    with attribute_errors("sampler", sampler, "reporting its longest pass"):
        frames = sampler.passes(block)
    if not _count(frames):
        raise WrongAnswer("sampler", sampler, frames, f"from passes({block})", "a whole number of 1 or more")
    return int(frames)


def _attribute(kind: str, part: object, name: str, expected: str, fits: Callable[[Any], bool]) -> None:
    if not fits(value := getattr(part, name)):
        raise WrongAnswer(kind, part, value, f"as its attribute {name}", expected)


def _all(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(map(fits, value))


def _count(value: Any) -> bool:
    return whole(value) and value >= 1


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
