"""The network against a plain forward of whole videos, in rollouts and in training passes."""

from __future__ import annotations

import pytest
import torch
from plain_forward import clean_frames
from rollforge_frames import FrameTransformer, ShapeNames
from torch import Tensor

from rollforge.memory import MaskedMemory
from rollforge.policies import Window
from rollforge.rollout import Rollout, RolloutIterator
from rollforge.samplers import Euler

FRAMES, WINDOW, LEVELS = 8, 3, 2
SHAPES = ["circle", "triangle"]


def rollout(network: FrameTransformer, *prompts: str, **how: object) -> RolloutIterator:
    sampler = Euler(steps=LEVELS, shift=1.0, context_noise=50.0)
    condition = ShapeNames()(prompts)
    return Rollout(network, Window(WINDOW - 1), sampler)(condition, FRAMES, **how)  # type: ignore[arg-type]


def in_window(frames: int) -> Tensor:
    """Which frame attends to which: itself and the two before it."""
    age = torch.arange(frames)[:, None] - torch.arange(frames)
    return (age >= 0) & (age < WINDOW)


@torch.no_grad()
def test_every_pass_of_a_cached_rollout_equals_a_dense_pass_over_the_whole_video(network: FrameTransformer) -> None:
    passes: list[tuple[Tensor, Tensor, Tensor]] = []
    network.register_forward_hook(lambda module, given, made: passes.append((given[0], given[1], made)))
    blocks = list(rollout(network, *SHAPES))
    assert len(blocks) == FRAMES
    assert len(passes) == FRAMES * (LEVELS + 1) - 1  # nothing reads the last frame

    net, classes = network.state_dict(), torch.tensor([1, 3])
    history: list[tuple[Tensor, Tensor]] = []  # committed latents and their noise level
    for number, (latents, timesteps, made) in enumerate(passes):
        x, t = (torch.cat(parts, dim=1) for parts in zip(*history, (latents, timesteps), strict=True))
        frames = len(history) + 1
        dense = clean_frames(net, 2, x, t / 1000, classes, torch.arange(frames), in_window(frames))
        torch.testing.assert_close(made, dense[:, -1:], rtol=0, atol=1e-5)
        assert 0.1 < made.std() < 10
        if number % (LEVELS + 1) == LEVELS:
            history.append((latents, timesteps))


@torch.no_grad()
@pytest.mark.parametrize("layout", ["diffusion_forcing", "teacher_forcing"])
def test_a_training_pass_equals_a_dense_pass_under_its_mask(network: FrameTransformer, layout: str) -> None:
    twice = 2 if layout == "teacher_forcing" else 1
    latents, timesteps = (
        torch.randn(2, twice * FRAMES, *network.spec.latent_shape),
        torch.rand(2, twice * FRAMES) * 1000,
    )
    sees = in_window(FRAMES)
    if twice == 2:  # clean frames, then noisy ones: each noisy frame attends to itself and to the clean ones before it
        own = torch.eye(FRAMES, dtype=torch.bool)
        sees = torch.cat([torch.cat([sees, ~sees & sees], 1), torch.cat([sees & ~own, own], 1)])
    times = torch.arange(FRAMES).repeat(twice)
    dense = clean_frames(network.state_dict(), 2, latents, timesteps / 1000, torch.tensor([1, 3]), times, sees)
    memory = getattr(MaskedMemory, layout)(network.spec, FRAMES, network.positions)
    made = network(latents, timesteps, ShapeNames()(SHAPES), memory)
    torch.testing.assert_close(made, dense, rtol=0, atol=1e-5)


def test_time_positions_repeat_after_the_window_and_matter_within_it(network: FrameTransformer) -> None:
    latents = torch.randn(1, 1, *network.spec.latent_shape)
    alone = torch.ones(1, 1, dtype=torch.bool)
    first, second, fourth = (
        network(latents, torch.full((1, 1), 500.0), ShapeNames()(["circle"]), memory)
        for memory in (MaskedMemory(network.spec, [time], alone, network.positions) for time in (0, 1, WINDOW))
    )
    assert torch.equal(first, fourth)
    assert not torch.allclose(first, second, atol=1e-2)


def test_a_batch_of_two_equals_two_of_one(network: FrameTransformer) -> None:
    both = torch.cat([block.latents for block in rollout(network, *SHAPES)], dim=1)
    for sample, shape in enumerate(SHAPES):
        alone = torch.cat([block.latents for block in rollout(network, shape, samples=[sample])], dim=1)
        torch.testing.assert_close(both[sample : sample + 1], alone, rtol=0, atol=1e-5)
    assert not torch.allclose(both[0], both[1], atol=0.1)


@pytest.mark.parametrize("kv", [True, False])
def test_a_rollout_interrupted_after_any_frame_resumes_bit_for_bit(network: FrameTransformer, kv: bool) -> None:
    complete = [block.latents for block in rollout(network, "square")]
    interrupted = rollout(network, "square")
    for cut in range(1, FRAMES):
        next(interrupted)
        state = interrupted.state_dict(kv)
        resumed = rollout(network, "square", state=state, finished=() if kv else complete[:cut])
        assert all(torch.equal(a.latents, b) for a, b in zip(resumed, complete[cut:], strict=True))
