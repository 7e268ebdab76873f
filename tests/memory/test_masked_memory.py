"""Masked attention against a dense mask over all frames, and training's view against a cached rollout."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rollforge.backbones.base import Condition
from rollforge.backbones.wan.network import Wan
from rollforge.memory import FullMemory, MaskedMemory, RolloutMemory, Rope
from rollforge.policies import Window
from rollforge.positions.rope import rotate
from rollforge.spec import ModelSpec, Phase, Step


def spec_of(block: int = 2, window: int = 6) -> ModelSpec:
    return ModelSpec(1, 4, 2, (2, 2), 2, 2, 12, block, window, window, 4.0)


def dense(spec: ModelSpec, times: list[int], sees: list[list[bool]], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One softmax over every token of the pass; what a frame does not see scores minus infinity."""
    rotation = Rope().rotation(spec, times, q.device)
    scores = torch.einsum("bqhd,bkhd->bhqk", rotate(q, rotation).double(), rotate(k, rotation).double())
    mask = torch.tensor(sees).repeat_interleave(spec.tokens, 0).repeat_interleave(spec.tokens, 1)
    weights = (scores / spec.head_dim**0.5).masked_fill(~mask, float("-inf")).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v.double())


def check(memory: MaskedMemory, spec: ModelSpec, times: list[int], sees: list[list[bool]]) -> None:
    for layer in range(2):
        q, k, v = torch.randn(3, 2, len(times) * spec.tokens, spec.heads, spec.head_dim)
        expected = dense(spec, times, sees, q, k, v)
        torch.testing.assert_close(memory.attend(layer, q, k, v).double(), expected, rtol=0, atol=1e-5)


def in_window(query: int, key: int, spec: ModelSpec) -> bool:
    """Whether the block of frame ``key`` and that of ``query`` lie in one window that ends with the latter."""
    window_start = (query // spec.block + 1) * spec.block - spec.window
    return key >= window_start


SIZES = [(1, 1, 5), (1, 3, 6), (2, 2, 6), (2, 6, 8), (3, 9, 15), (3, 21, 9)]


@pytest.mark.parametrize(("block", "window", "frames"), SIZES)
def test_diffusion_forcing_sees_itself_and_the_blocks_before(block: int, window: int, frames: int) -> None:
    spec = spec_of(block, window)
    sees = [[key // block <= i // block and in_window(i, key, spec) for key in range(frames)] for i in range(frames)]
    check(MaskedMemory.diffusion_forcing(spec, frames), spec, list(range(frames)), sees)


@pytest.mark.parametrize(("block", "window", "frames"), SIZES)
def test_teacher_forcing_sees_clean_blocks_before_and_its_noisy_self(block: int, window: int, frames: int) -> None:
    spec = spec_of(block, window)
    sees = [[False] * (2 * frames) for _ in range(2 * frames)]
    for query in range(frames):
        for key in range(frames):
            earlier = key // block < query // block and in_window(query, key, spec)
            own = key // block == query // block
            sees[query][key] = earlier or own  # history on history
            sees[frames + query][key] = earlier  # noisy on history
            sees[frames + query][frames + key] = own  # noisy on noisy
    check(MaskedMemory.teacher_forcing(spec, frames), spec, [*range(frames), *range(frames)], sees)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_any_table_at_any_times_equals_the_dense_mask(data: st.DataObject) -> None:
    frames = data.draw(st.integers(1, 6))
    rows = st.lists(st.booleans(), min_size=frames, max_size=frames).filter(any)
    sees = data.draw(st.lists(rows, min_size=frames, max_size=frames))
    times = data.draw(st.lists(st.integers(0, 10**6), min_size=frames, max_size=frames))
    spec = spec_of()
    check(MaskedMemory(spec, times, torch.tensor(sees)), spec, times, sees)


def test_a_table_of_all_is_full_attention() -> None:
    spec, tokens = spec_of(), torch.randn(3, 2, 8, 2, 12)
    masked = MaskedMemory(spec, range(4), torch.ones(4, 4, dtype=torch.bool)).attend(0, *tokens)
    assert torch.equal(masked, FullMemory(spec, range(4)).attend(0, *tokens))


@torch.no_grad()
def test_teacher_forcing_trains_on_what_a_rollout_will_see() -> None:
    torch.manual_seed(0)
    model = Wan(2, 4, 2, 24, 2, 2, 32, 16, 4, 3, block=2, window=6, horizon=10).eval()
    spec, frames, condition = model.spec, 10, Condition("text", torch.randn(2, 3, 4))
    clean, noisy = torch.randn(2, 2, frames, *spec.latent_shape)
    levels = (torch.rand(2, frames // 2) * 1000).repeat_interleave(2, dim=1)

    both, times = torch.cat([clean, noisy], dim=1), torch.cat([torch.zeros_like(levels), levels], dim=1)
    parallel = model(both, times, condition, MaskedMemory.teacher_forcing(spec, frames))[:, frames:]

    policy, cached = Window(context_blocks=2), []
    memory = RolloutMemory(spec, policy.visible(spec.block))
    for index in range(frames // 2):
        for phase, latents, level in ((Phase.DENOISE, noisy, levels), (Phase.COMMIT, clean, torch.zeros_like(levels))):
            step = Step.of(index, spec.block, phase)
            block = slice(step.start, step.frames.stop)
            memory.begin(step, policy.plan(step))
            answer = model(latents[:, block], level[:, block], condition, memory)
            memory.end(policy.live(step.frames.stop, step.block))
            cached += [answer] if phase is Phase.DENOISE else []
    torch.testing.assert_close(parallel, torch.cat(cached, dim=1), rtol=0, atol=1e-5)


def test_gradients_reach_the_history() -> None:
    spec, frames = spec_of(), 4
    q, k, v = torch.randn(3, 1, 2 * frames * spec.tokens, 2, 12, requires_grad=True).unbind()
    out = MaskedMemory.teacher_forcing(spec, frames).attend(0, q, k, v)
    (gradient,) = torch.autograd.grad(out[:, -spec.tokens :].square().sum(), v)  # the last noisy frame
    reached = gradient.unflatten(1, (2 * frames, -1)).abs().sum((0, 2, 3, 4)) > 0
    assert reached.tolist() == [True, True, False, False, False, False, True, True]
