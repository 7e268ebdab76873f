"""FLEX for any model and cache policy: rotary embedding by the plan's span, antiphase noise, a sink; and SAN noise."""

from rollforge.registry import Register, hookimpl
from rollforge_flex.noise import AntiphaseNoise, SANNoise
from rollforge_flex.rope import FlexRope
from rollforge_flex.sink import InferenceSink

__all__ = ["AntiphaseNoise", "FlexRope", "InferenceSink", "SANNoise"]
__version__ = "0.1.0"
rollforge_api = 1


@hookimpl
def rollforge_register_positions(register: Register) -> None:
    register(FlexRope)


@hookimpl
def rollforge_register_noise(register: Register) -> None:
    register(AntiphaseNoise)
    register(SANNoise)


@hookimpl
def rollforge_register_cache(register: Register) -> None:
    register(InferenceSink)
