"""Windows of long rollouts: what they continue from, which weights get gradients, and what a checkpoint keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from objective_parts import BLOCK, CAPTIONS, FRAMES, network, pipeline
from torch import Tensor

from rollforge.errors import UserError
from rollforge.memory import GradientMemory
from rollforge.objectives.dmd import DMD
from rollforge.objectives.gan import GAN
from rollforge.objectives.long_tuning import LongTuning
from rollforge.objectives.self_rollout import ExitStep
from rollforge.policies import Window
from rollforge.rollout import Rollout
from rollforge.samplers import FewStep

WINDOW = 2 * BLOCK
SAMPLER = FewStep((1000, 500), shift=1.0)
POLICY = Window(2)


def owner() -> Any:
    return pipeline(network(), policy=POLICY, sampler=SAMPLER)


def tuning(**more: Any) -> LongTuning:
    how: dict[str, Any] = {"frames": WINDOW, "windows": 3, "exit_steps": [1], "checkpoint": False} | more
    return LongTuning(DMD(), network(), network(), **how)


def window(objective: LongTuning, model: Any, captions: list[str] = CAPTIONS) -> Tensor:
    """The next window, with gradients."""
    prompts = objective._captions(captions)
    return objective.roll(model, model.condition(prompts))


def test_windows_in_a_row_are_one_long_rollout() -> None:
    objective, model = tuning(), owner()
    torch.manual_seed(3)
    made = torch.cat([window(objective, model) for _ in range(3)], dim=1)
    sampler = ExitStep(SAMPLER, 1, 0, "straight_through", 5.0)
    rollout = Rollout(model.backbone, POLICY, sampler, positions=model.positions, memory=GradientMemory)
    run = rollout(model.condition(CAPTIONS), 3 * WINDOW, objective.seed)
    whole = torch.cat([block.latents for block in run], dim=1)
    torch.testing.assert_close(made, whole, rtol=1e-5, atol=1e-5)
    torch.manual_seed(4)
    fresh = window(objective, model)
    assert objective.done == 1  # a new video, from other noise
    assert not torch.allclose(fresh, made[:, :WINDOW], atol=1e-2)


def test_no_gradient_leaves_a_window() -> None:
    """The gradient equals that of a window after a history that was rolled without any."""
    found = []
    for free in (False, True):
        objective, model = tuning(), owner()
        torch.manual_seed(3)
        with torch.set_grad_enabled(free):
            window(objective, model)
        window(objective, model).square().mean().backward()
        found.append({name: weight.grad for name, weight in model.backbone.named_parameters()})
    assert any(grad is not None and grad.abs().max() > 0 for grad in found[0].values())
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad)


def test_only_the_last_blocks_of_each_window_have_gradients() -> None:
    objective, model = tuning(gradient_blocks=1), owner()
    for _ in range(2):
        made = window(objective, model)
        model.backbone.zero_grad()
        made[:, :BLOCK].sum().backward(retain_graph=True)
        assert not any(weight.grad is not None and weight.grad.any() for weight in model.backbone.parameters())
        made[:, BLOCK:].sum().backward()
        assert any(weight.grad is not None and weight.grad.any() for weight in model.backbone.parameters())


def test_a_resumed_training_continues_the_same_video() -> None:
    model = owner()
    first, resumed = tuning(), tuning()
    torch.manual_seed(3)
    window(first, model)
    resumed.load_state_dict(first.state_dict())
    assert torch.equal(window(first, model), window(resumed, model, ["other", "captions"]))


def test_a_prompt_switches_between_windows_as_in_inference() -> None:
    model, other = owner(), ["a green cone over grass at dusk"] * 2
    objective = tuning(switch=1.0)
    torch.manual_seed(3)
    first = window(objective, model)
    second = window(objective, model, other)
    assert objective.shots == {0: CAPTIONS, 1: other}
    sampler = ExitStep(SAMPLER, 1, 0, "straight_through", 5.0)
    rollout = Rollout(model.backbone, POLICY, sampler, positions=model.positions, memory=GradientMemory)
    prompts = {0: model.condition(CAPTIONS), WINDOW: model.condition(other)}
    whole = torch.cat([block.latents for block in rollout(prompts, 2 * WINDOW, objective.seed)], dim=1)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole, rtol=1e-5, atol=1e-5)


def test_each_step_trains_on_the_next_window() -> None:
    objective, model = tuning(ratio=1), owner()
    for step in range(4):
        objective.step = step
        losses = objective(model, {"caption": CAPTIONS})
        assert losses["loss"].isfinite()
        assert ("loss_critic" in losses) is (step % 2 == 1)
        assert len([name for name in losses if "_frame_" in name]) == WINDOW
        losses["loss"].backward()
    assert objective.done == 1


def test_a_loss_on_true_clips_and_a_window_of_half_blocks_are_refused() -> None:
    with pytest.raises(UserError, match="LongTuning has no true clips of a long video, and GAN compares with them"):
        LongTuning(GAN(taps=[0.0, 0.5]), network())
    with pytest.raises(UserError, match="not whole blocks of 3"):
        tuning(frames=FRAMES - 1)(owner(), {"caption": CAPTIONS})
