"""LongLive through a prompt switch, against a loop over plain tensors written from the rules of the released code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rollforge.backbones.base import Condition
from rollforge.backbones.wan.network import Wan
from rollforge.errors import UserError
from rollforge.memory import Memory, Rope
from rollforge.memory.attention import attention
from rollforge.noise import normal
from rollforge.policies import LongLive
from rollforge.positions.rope import rotate
from rollforge.rollout import Rollout
from rollforge.samplers import FewStep
from rollforge.spec import Phase, PromptSwitch, Step

BLOCK, WINDOW, SINK, FRAMES = 2, 8, 2, 20  # K = 3 and S = 1 with blocks of two frames
STEPS = (1000.0, 500.0)
Layers = dict[int, tuple[Tensor, Tensor]]


@pytest.fixture(scope="module")
def model() -> Wan:
    torch.manual_seed(0)
    made = Wan(2, 4, 2, 24, 2, 2, 32, 16, 4, 3, block=BLOCK, window=WINDOW, horizon=WINDOW).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made.requires_grad_(False)


def prompt(seed: int) -> Condition:
    return Condition(str(seed), torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(seed)))


class Buffer(Memory):
    """Everything sees everything of a pass and the frames ``context``, all at their own times; notes the pass's own."""

    def __init__(self, model: Wan, context: list[Layers], times: range) -> None:
        self.context, self.made = context, Layers()
        self.rotation = Rope().rotation(model.spec, list(times), torch.device("cpu"))

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k = rotate(k, self.rotation)
        self.made[layer] = k, v
        keys = torch.cat([*(frame[layer][0] for frame in self.context), k], dim=1)
        values = torch.cat([*(frame[layer][1] for frame in self.context), v], dim=1)
        return attention(rotate(q, self.rotation), keys, values)


def released(model: Wan, switch: int, global_sink: bool) -> Tensor:
    """A buffer of frames in order: the sink, then the newest; at a switch the rules of the release."""
    cache: list[int] = []
    kept: dict[int, Layers] = {}
    made: list[Tensor] = []
    text = prompt(0)

    def forward(x: Tensor, t: float, context: list[int], times: range) -> Tensor:
        buffer = Buffer(model, [kept[frame] for frame in context], times)
        flow = model(x, torch.full(x.shape[:2], t), text, buffer)
        if t == 0:
            size = model.spec.tokens
            for n, frame in enumerate(times):
                rows = slice(n * size, (n + 1) * size)
                kept[frame] = {layer: (k[:, rows], v[:, rows]) for layer, (k, v) in buffer.made.items()}
        return flow

    for start in range(0, FRAMES, BLOCK):
        if start == switch:
            text = prompt(1)
            sink = cache[:SINK] if global_sink and start > WINDOW else []
            again = range(max(0, start - WINDOW) + len(sink), start)
            forward(torch.cat(made, dim=1)[:, again.start : again.stop], 0.0, sink, again)
            cache = [*sink, *again]
        frames = range(start, start + BLOCK)
        full = len(cache) + BLOCK > WINDOW
        seen = [*cache[:SINK], *cache[SINK + BLOCK + len(cache) - WINDOW :]] if full else cache
        noise = [torch.stack([normal(0, 0, frame, level, (2, 4, 2)) for frame in frames])[None] for level in (0, 1)]
        x = noise[0]
        for level, t in enumerate(STEPS):
            clean = x - t / 1000 * forward(x, t, seen, frames)
            x = (1 - STEPS[1] / 1000) * clean + STEPS[1] / 1000 * noise[1] if level == 0 else x
        made.append(clean)
        forward(clean, 0.0, seen, frames)
        cache = [*seen, *frames]
    return torch.cat(made, dim=1)


@pytest.mark.parametrize("global_sink", [True, False])
@pytest.mark.parametrize("switch", [4, 8, 10, 16])
def test_a_switch_is_that_of_the_release(model: Wan, switch: int, global_sink: bool) -> None:
    policy = LongLive(WINDOW // BLOCK - 1, SINK // BLOCK, global_sink=global_sink)
    rollout = Rollout(model, policy, FewStep(STEPS, shift=1.0))
    rolled = torch.cat([block.latents for block in rollout({0: prompt(0), switch: prompt(1)}, FRAMES)], dim=1)
    torch.testing.assert_close(rolled, released(model, switch, global_sink), rtol=0, atol=2e-5)


def reread(policy: LongLive, start: int, block: int = 3) -> list[range]:
    return list(policy.on_event(PromptSwitch(Step(start // block, start, block))))


def test_what_is_read_again_follows_from_the_window() -> None:
    assert [reread(LongLive(), start) for start in (9, 12, 15)] == [[range(9)], [range(12)], [range(6, 15)]]
    assert reread(LongLive(6, 2), 60) == [range(60 - 15, 60)]
    assert [reread(LongLive(global_sink=False), start) for start in (9, 15)] == [[range(9)], [range(3, 15)]]
    assert reread(LongLive(recache_blocks=3), 12) == [range(3, 12)]
    assert reread(LongLive(recache="block"), 10) == [range(1), range(1, 4), range(4, 7), range(7, 10)]


@pytest.mark.parametrize(
    "policy",
    [
        LongLive(*sizes, recache=recache, global_sink=stays)
        for sizes in ((3, 1), (4, 2, 6))
        for recache in ("full", "block")
        for stays in (True, False)
    ],
    ids=lambda policy: f"{policy.recache_blocks}-{policy.recache}-{policy.global_sink}",
)
@pytest.mark.parametrize("opening", [0, 1])
def test_no_plan_is_larger_than_it_says_and_all_it_reads_is_live(policy: Any, opening: int) -> None:
    for start in range(opening, 61, 3):
        live = policy.live(start, 3)
        for again in reread(policy, start) if start in (opening + 9, opening + 12, opening + 36) else []:
            assert {*again} <= live
            plan = policy.plan(Step(0, again.start, 3, Phase.RECACHE, count=len(again)))
            assert len(plan.entries()) <= policy.visible(3)
        entries = policy.plan(Step(0, start, 3)).entries()
        assert len(entries) <= policy.visible(3)
        assert {content for content, _ in entries} <= policy.live(start, 3)


@pytest.mark.parametrize("sizes", [(3, 3), (3, 1, 2)])
def test_sizes_that_do_not_fit_each_other(sizes: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"^LongLive got .*expected sink_blocks < context_blocks <= recache_blocks, or"):
        LongLive(*sizes)
