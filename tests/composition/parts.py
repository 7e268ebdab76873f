"""Every part of the core and of the packages, small, by kind and name: what the composition tests put together."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from rollforge.backbones.base import Backbone, Condition
from rollforge.backbones.wan.network import Wan
from rollforge.policies import RollingSink, Window
from rollforge.registry import registry
from rollforge.samplers import FewStep
from rollforge.testing.tiny import SHAPE, WIDTH, WORDS, condition, network

KINDS = ("cache", "positions", "noise", "sampler", "kv_codec", "backbone")
ELSEWHERE = {"SkyReels", "Wan22"}
"""Backbones that are built from folders of published weights; the tests of their packages roll them."""
SMALL: dict[str, dict[str, Any]] = {
    "Euler": {"steps": 4},
    "RollingForcing": {"context_blocks": 5, "sink_blocks": 1},
    "RecencyForcing": {"recent_frames": 5, "sink_frames": 1, "chunk_frames": 1},
    "FreqForcing": {"policy": RollingSink(3, 2), "anchors": (0, 2), "horizon": 4},
    "ReadLocus": {"policy": Window(3), "far_frames": 3},
    "DeepForcing": {"window": 7, "budget": 6, "sink": 3, "recent": 2},
}
"""Arguments with which a part does what is special of it soon, and costs little."""
BLOCKS_OF: dict[str, Any] = {"context_blocks": 3, "sink_blocks": 1}
"""Those of every other policy that has them."""
BLOCKS, SAMPLES, WINDOW = 8, 1, 9


@dataclass(frozen=True)
class Parts:
    """The factories of every part, by kind and name."""

    make: Mapping[str, Mapping[str, Callable[[], Any]]]

    def names(self, kind: str) -> list[str]:
        return list(self.make[kind])


def collected(folder: Path) -> Parts:
    """All parts of the kinds that are put together, from the registry."""
    registry().load()
    fixed = {"FixedNoise": {"file": str(_noise(folder))}}
    found: dict[str, dict[str, Callable[[], Any]]] = {kind: {} for kind in KINDS}
    for kind in KINDS[:-1]:
        for part in registry().of(kind):
            target, arguments = part.load(), fixed.get(part.name, {})
            found[kind][part.name] = lambda target=target, arguments=arguments: _built(target, arguments)
    found["positions"]["(its own)"] = lambda: None
    found["backbone"] = {
        "Pocket": lambda: (_pocket(), condition()),
        "Wan": lambda: (_wan(), condition()),
        "FrameTransformer": _frames,
    }
    return Parts(found)


def _built(target: Any, arguments: Mapping[str, Any]) -> Any:
    """A part with small sizes, and what it wraps."""
    parameters = inspect.signature(target).parameters
    wraps = {"policy": RollingSink(3, 2), "sampler": FewStep()}
    usual = {name: value for name, value in BLOCKS_OF.items() if name in parameters}
    given = dict(SMALL.get(target.__name__, usual))
    given |= {
        name: wraps[name]
        for name in wraps.keys() & parameters.keys()
        if parameters[name].default is inspect.Parameter.empty
    }
    return target(**given | arguments)


def _pocket() -> Backbone:
    made = network(1)
    made.spec = replace(made.spec, window=WINDOW, horizon=WINDOW)
    return made


def _wan() -> Backbone:
    torch.manual_seed(3)
    made = Wan(
        channels=SHAPE[0], height=SHAPE[1], width=SHAPE[2], dim=16, layers=2, heads=2, ffn_dim=32, freq_dim=16,
        text_dim=WIDTH, text_len=WORDS, block=1, window=WINDOW, horizon=WINDOW,
    )  # fmt: skip
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.15)
    return made.eval()


def _frames() -> tuple[Backbone, Condition]:
    from rollforge_frames import FrameTransformer, ShapeNames

    torch.manual_seed(3)
    made = FrameTransformer(size=4, dim=16, layers=2, heads=2, window=WINDOW, horizon=WINDOW)
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.15)
    return made.eval(), ShapeNames()(["circle"])


def _noise(folder: Path) -> Path:
    """Noise in a file, for every backbone here, as far as their channels agree."""
    draw = torch.Generator().manual_seed(5)
    noise = torch.randn(SAMPLES, BLOCKS + 8, *SHAPE, generator=draw)
    renoise = torch.randn(BLOCKS + 8, 8, SAMPLES, 1, *SHAPE, generator=draw)
    file = folder / "noise.safetensors"
    save_file({"noise": noise, "renoise": renoise}, str(file))
    return file
