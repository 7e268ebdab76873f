"""The parity cases of this package, which ``tests/parity`` runs."""

from collections.abc import Mapping
from typing import Any

from parity_method import Meta, Method
from rollforge_infinity_rope import InfinityRope

from rollforge.spec import Cut, Event


def cuts(meta: Meta) -> Mapping[int, tuple[type[Event], Mapping[str, Any]]]:
    """The cuts among the switches, by the first frame of their block."""
    return {switch["frame"]: (Cut, {}) for switch in meta["switches"] if switch["cut"]}


METHODS = (Method("infinity rope", lambda meta: InfinityRope(meta["window"], meta["sink"]), events=cuts),)
