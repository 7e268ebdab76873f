"""A rollout with gradients, against a dense computation that keeps everything and writes every softmax out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from rollforge.backbones.base import Condition
from rollforge.backbones.wan.network import Wan
from rollforge.errors import UserError
from rollforge.memory import GradientMemory, Memory, RolloutMemory, Rope
from rollforge.noise import IndependentNoise
from rollforge.objectives.self_rollout import ExitStep, History
from rollforge.policies import AttentionSink, CachePolicy, Window
from rollforge.positions.rope import rotate
from rollforge.rollout import Rollout
from rollforge.samplers import FewStep
from rollforge.spec import Step

BLOCK, FRAMES, STEPS, EXIT = 2, 6, (1000, 600, 200), 1
SIZES = {"dim": 24, "layers": 2, "heads": 2, "ffn_dim": 32, "freq_dim": 16, "text_dim": 8, "text_len": 3}


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def network() -> Wan:
    torch.manual_seed(3)
    model = Wan(channels=2, height=4, width=4, block=BLOCK, window=FRAMES, horizon=FRAMES, **SIZES)
    return model.to(torch.get_default_dtype()).requires_grad_(True)


def condition() -> Condition:
    drawn = torch.Generator().manual_seed(4)
    return Condition("text", torch.randn(1, 3, 8, generator=drawn, dtype=torch.float32).to(torch.get_default_dtype()))


def rolled(model: Wan, sampler: ExitStep, policy: CachePolicy | None = None, frames: int = FRAMES) -> Tensor:
    rollout = Rollout(model, policy or Window(2), sampler, memory=GradientMemory)
    return torch.cat([block.latents for block in rollout(condition(), frames, seed=5)], dim=1)


def gradients(model: Wan, video: Tensor) -> dict[str, Tensor]:
    """Of a loss that weighs every number differently."""
    drawn = torch.Generator().manual_seed(6)
    weights = torch.randn(video.shape, generator=drawn, dtype=torch.float32).to(video.dtype)
    model.zero_grad()
    (weights * video).sum().backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


class Dense(Memory):
    """Keeps keys and values of every frame that it is given, and attends to all of them."""

    def __init__(self, model: Wan, start: int, history: list[list[tuple[Tensor, Tensor]]]) -> None:
        self.spec, self.history = model.spec, history
        self.times = [float(n) for n in range(start + BLOCK)]
        self.own: list[tuple[Tensor, Tensor]] = []

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        self.own.append((k, v))
        keys, values = (
            torch.cat(each, 1) for each in zip(*[block[layer] for block in self.history], (k, v), strict=True)
        )
        keys = rotate(keys, Rope().rotation(self.spec, self.times, k.device))
        q = rotate(q, Rope().rotation(self.spec, self.times[-BLOCK:], q.device))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, keys) / q.shape[-1] ** 0.5
        return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), values)


def dense(model: Wan, sampler: ExitStep, history: History) -> Tensor:
    """The same rollout, written out."""
    noise, text = IndependentNoise(), condition()
    kept: list[list[tuple[Tensor, Tensor]]] = []
    video = []

    def drawn(index: int, level: int) -> Tensor:
        frames = Step.of(index, BLOCK).frames
        return noise.batch(5, (0,), frames, level, model.spec.latent_shape).to(torch.get_default_dtype())

    def run(x: Tensor, t: float, start: int) -> tuple[Tensor, Dense]:
        memory = Dense(model, start, kept)
        return model(x, torch.full((1, BLOCK), t), text, memory), memory

    for index in range(FRAMES // BLOCK):
        start, x = index * BLOCK, drawn(index, 0)
        with torch.no_grad():
            flow, _ = run(x, STEPS[0], start)
            sigma = STEPS[1] / 1000
            x = (1 - sigma) * (x - flow) + sigma * drawn(index, 1)
        flow, last = run(x, STEPS[1], start)
        clean = x - sigma * flow
        video.append(clean)
        with torch.set_grad_enabled(history == "commit"):
            level = sampler.commit_noise / 1000
            _, commit = run((1 - level) * clean + level * drawn(index, len(STEPS)), 0.0, start)
        joined = zip(commit.own, last.own, strict=True)
        kept.append(
            [
                (k + ek - ek.detach(), v + ev - ev.detach()) if history == "straight_through" else (k, v)
                for (k, v), (ek, ev) in joined
            ]
        )
    return torch.cat(video, dim=1)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("history", ["straight_through", "cut", "commit"])
def test_gradients_equal_those_of_a_dense_computation(history: History) -> None:
    model = network()
    found = {}
    for checkpoint in (False, True):
        sampler = ExitStep(FewStep(STEPS, shift=1.0), EXIT, 0, history, 5.0, checkpoint)
        video = rolled(model, sampler)
        found[checkpoint] = video.detach(), gradients(model, video)
    written_out = dense(model, sampler, history)
    expected = gradients(model, written_out)
    assert torch.allclose(found[False][0], written_out.detach(), rtol=0, atol=1e-5)
    assert found[False][1].keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[False][1][name] - gradient).abs().max() <= 1e-5 * gradient.abs().max(), name
        assert torch.equal(found[True][1][name], found[False][1][name]), name


@pytest.mark.usefixtures("double")
def test_the_three_ways_of_history_have_other_gradients_and_equal_videos() -> None:
    model, key = network(), "blocks.0.self_attn.k.weight"
    videos, found = [], []
    for history in ("straight_through", "cut", "commit"):
        video = rolled(model, ExitStep(FewStep(STEPS, shift=1.0), EXIT, 0, history))
        videos.append(video.detach())
        found.append(gradients(model, video)[key])
    assert torch.equal(videos[0], videos[1])
    torch.testing.assert_close(videos[0], videos[2], rtol=0, atol=1e-6)  # a commit with gradients rounds otherwise
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(found[one], found[other], rtol=0.01)


def test_frames_that_leave_the_window_and_later_gradients_only() -> None:
    """A sink that skips a block, in a longer video; gradients of the last two blocks alone."""
    model, policy = network(), AttentionSink(2, 1)
    sampler = ExitStep(FewStep(STEPS, shift=1.0), EXIT, 4 * BLOCK, "straight_through", checkpoint=True)
    video = rolled(model, sampler, policy, 6 * BLOCK)
    with torch.no_grad():
        plain = rolled(model, sampler, policy, 6 * BLOCK)
    assert not plain.requires_grad
    torch.testing.assert_close(video.detach(), plain, rtol=0, atol=1e-5)
    blocks = video.split(BLOCK, dim=1)
    grads = [torch.autograd.grad(block.sum(), [model.head.head.weight], retain_graph=True)[0].any() for block in blocks]
    assert [bool(each) for each in grads] == [False] * 4 + [True] * 2


def test_predict_keeps_no_graph_and_the_last_step_is_the_sampler_itself() -> None:
    model = network()
    rollout = Rollout(model, Window(2), FewStep(STEPS, shift=1.0))
    plain = torch.cat([block.latents for block in rollout(condition(), FRAMES, seed=5)], dim=1)
    assert not plain.requires_grad
    same = rolled(model, ExitStep(FewStep(STEPS, shift=1.0), len(STEPS) - 1))
    assert same.requires_grad
    torch.testing.assert_close(same.detach(), plain, rtol=0, atol=1e-5)


def test_a_memory_that_cannot_show_a_pass_again_is_refused() -> None:
    sampler = ExitStep(FewStep(STEPS, shift=1.0), EXIT, 0, "cut", checkpoint=True)
    run = Rollout(network(), Window(2), sampler, memory=RolloutMemory)(condition(), FRAMES)
    with pytest.raises(UserError, match="set checkpoint to false"):
        next(run)
