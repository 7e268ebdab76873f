"""``fuse_commit``: a block is committed in one pass with the first step of the next one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from rollforge.backbones.base import Condition
from rollforge.backbones.wan.network import Wan
from rollforge.errors import UserError
from rollforge.memory import KVCodec, RoutedMemory
from rollforge.noise import PerturbedNoise
from rollforge.policies import AttentionSink, CachePolicy, LongLive, RollingSink, SlidingIndices, Window
from rollforge.rollout import Rollout
from rollforge.rollout.block_check import BlockCheck
from rollforge.samplers import Euler, FewStep, Sampler
from rollforge.snapshots.packing import pack, unpack
from rollforge.spec import Step

BLOCK, FRAMES, SWITCH = 2, 24, 14
BLOCKS = FRAMES // BLOCK
POLICIES = [Window(2), AttentionSink(2, 1), SlidingIndices(2, 1), RollingSink(3, 2), LongLive(2, 1, 2)]
FEW, GUIDED = FewStep([1000, 500], context_noise=50.0), Euler(steps=2, guidance=2.0)


@pytest.fixture(scope="module")
def model() -> Wan:
    torch.manual_seed(0)
    made = Wan(2, 4, 2, 24, 2, 2, 32, 16, 4, 3, block=BLOCK, window=6, horizon=6).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return made


def text(seed: int = 0, rows: int = 1) -> Condition:
    return Condition(f"text {seed}", torch.randn(rows, 3, 4, generator=torch.Generator().manual_seed(seed)))


def roll(model: Wan, policy: CachePolicy, sampler: Sampler, fuse: bool = True, rows: int = 1, **how: Any) -> Any:
    negative = text(9, rows) if "negative" in sampler.guidance_branches else None
    options = {name: how.pop(name) for name in ("noise",) if name in how}
    prompts = {0: text(rows=rows), SWITCH: text(1, rows)}
    return Rollout(model, policy, sampler, fuse_commit=fuse, **options)(prompts, FRAMES, negative=negative, **how)


def latents(blocks: Any) -> Tensor:
    return torch.cat([block.latents for block in blocks], dim=1)


@contextmanager
def frames_of_passes(model: Wan) -> Iterator[list[int]]:
    """How many frames each pass has that the network is called for."""
    seen: list[int] = []
    hook = model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    yield seen
    hook.remove()


@pytest.mark.parametrize("sampler", [FEW, GUIDED, FewStep([1000])], ids=["few", "guided", "one"])
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
def test_fused_commits_give_the_same_latents_with_fewer_passes(
    model: Wan, policy: CachePolicy, sampler: Sampler
) -> None:
    with frames_of_passes(model) as plain:
        expected = latents(roll(model, policy, sampler, fuse=False, rows=2))
    with frames_of_passes(model) as fused:
        made = latents(roll(model, policy, sampler, rows=2))
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-5)
    commits = BLOCKS - 3  # the first block reads nothing, the prompt switches once, and the last has no commit
    assert fused.count(2 * BLOCK) - plain.count(2 * BLOCK) == len(plain) - len(fused) == commits  # LongLive reads again


class Movable(Window):
    """Keeps the keys and values of its frames without rotation."""

    def moves(self, start: int, block: int) -> frozenset[int]:
        return self.live(start, block)


def test_committed_block_does_not_attend_to_the_next_one(model: Wan) -> None:
    """With other noise for block 5, the keys and values of block 4 that the same pass has stored stay the same."""
    kept = []
    for noise in (PerturbedNoise(frame=5 * BLOCK, strength=strength) for strength in (0.0, 0.5)):
        run = roll(model, Movable(2), FEW, noise=noise)
        *_, last = (next(run) for _ in range(6))
        raw = run.passes.memories["prompt"].raw
        kept.append(([x for frame in (8, 9) for pair in raw[frame] for x in pair], last.latents))
    assert all(torch.equal(*pair) for pair in zip(kept[0][0], kept[1][0], strict=True))
    assert not torch.equal(kept[0][1], kept[1][1])


def test_last_layer_computes_only_the_next_block(model: Wan) -> None:
    shapes: list[int] = []
    last: Any = model.blocks[-1]
    hook = last.ffn.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape[1]))
    latents(roll(model, Window(2), FEW))
    hook.remove()
    assert {*shapes} == {BLOCK * model.spec.tokens}


@pytest.mark.parametrize("kv", [True, False], ids=["save", "recompute"])
@pytest.mark.parametrize(("policy", "sampler"), [(RollingSink(2, 1), FEW), (Window(2), GUIDED)], ids=["few", "guided"])
def test_resumed_rollout_fuses_the_same_passes(model: Wan, policy: CachePolicy, sampler: Sampler, kv: bool) -> None:
    whole = list(roll(model, policy, sampler))
    for cut in (1, 4, 6, 7, 11):
        run = roll(model, policy, sampler)
        finished = [next(run).latents for _ in range(cut)]
        state = unpack(*pack(run.state_dict(kv)))
        rest = list(roll(model, policy, sampler, state=state, finished=[] if kv else finished))
        assert len(rest) == BLOCKS - cut
        assert all(torch.equal(one.latents, other.latents) for one, other in zip(rest, whole[cut:], strict=True))


class Halved(KVCodec):
    def encode(self, k: Tensor, v: Tensor) -> Any:
        return k.half(), v.half()

    def decode(self, kept: Any) -> Any:
        return kept[0].float(), kept[1].float()


class Noticing(Window):
    def on_commit(self, step: Step) -> Any:
        return [step.frames]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"policy": Noticing(2)}, "cache policy Noticing acts when a block is committed"),
        ({"kv_codec": Halved()}, "KV codec Halved encodes"),
        ({"memory": RoutedMemory}, "memory RoutedMemory"),
        ({"check": BlockCheck("retry")}, "block_check may make the next block again"),
    ],
    ids=["on_commit", "kv_codec", "memory", "retry"],
)
def test_component_that_acts_in_between_raises_user_error(model: Wan, changed: dict[str, Any], message: str) -> None:
    components: dict[str, Any] = {"policy": Window(2), "sampler": FEW} | changed
    with pytest.raises(UserError, match=f"{message}.*fuse_commit"):
        Rollout(model, **components, fuse_commit=True)(text(), FRAMES)
