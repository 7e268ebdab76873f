"""Whose turn it is in Self Forcing, what is drawn, and what is refused before a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rollforge.backbones.pocket.codec import PocketCodec
from rollforge.backbones.pocket.network import Pocket
from rollforge.backbones.pocket.text import PocketText
from rollforge.errors import UserError
from rollforge.objectives import DMD, GAN, SelfForcing
from rollforge.objectives.matching import Match
from rollforge.pipeline import Pipeline
from rollforge.policies import Window
from rollforge.samplers import Euler, FewStep, Sampler

CAPTIONS = ["a red ball over snow at day", "a blue box over sand at night"]


def network(**more: Any) -> Pocket:
    return Pocket(**{"dim": 32, "layers": 1, "heads": 2, "ffn_dim": 64, "window": 6, "horizon": 6} | more)


def pipeline(sampler: Sampler | None = None) -> Pipeline:
    return Pipeline(
        backbone=network(), conditioner=PocketText(), codec=PocketCodec(width=16), policy=Window(1),
        sampler=sampler or FewStep((1000, 500)),
    )  # fmt: skip


def test_the_critic_warms_up_and_then_has_several_steps_for_each_of_the_student() -> None:
    objective = SelfForcing(DMD(), network(), network(), ratio=2, warm_up=3)
    turns = []
    for objective.step in range(9):
        turns.append(objective.trains_critic)
    assert turns == [True, True, True, False, True, True, False, True, True]


def test_each_network_gathers_its_own_number_of_steps() -> None:
    objective = SelfForcing(DMD(), network(), network(), ratio=2, warm_up=1, accumulate=3, critic_accumulate=2)
    places = []
    for objective.step in range(11):
        places.append((objective.trains_critic, *objective.gathered))
    once, student = [(True, 0, 2), (True, 1, 2)], [(False, n, 3) for n in range(3)]
    assert places == [*once, *student, *once, *once, *student[:2]]


def test_a_step_of_one_network_leaves_no_gradient_in_the_other() -> None:
    objective, owner = SelfForcing(DMD(), network(), network(), ratio=1), pipeline()
    assert objective.critic is not None
    objective.critic.requires_grad_(False)
    losses = objective(owner, {"caption": CAPTIONS})
    losses["loss"].backward()
    assert all(weight.grad is None for weight in objective.critic.parameters())
    assert any(weight.grad is not None for weight in owner.backbone.parameters())
    assert {"loss_student", "student_frame_00", "student_frame_05"} <= losses.keys()
    objective.step = 1
    objective.critic.requires_grad_(True)
    owner.backbone.zero_grad()
    losses = objective(owner, {"caption": CAPTIONS})
    losses["loss"].backward()
    assert all(weight.grad is None for weight in owner.backbone.parameters())
    assert any(weight.grad is not None for weight in objective.critic.parameters())
    assert {"loss_critic", "critic_frame_05"} <= losses.keys()
    frames = torch.stack([losses[f"critic_frame_{n:02d}"] for n in range(6)])
    torch.testing.assert_close(frames.mean(), losses["loss"].detach())


def test_the_gradient_of_dmd_is_bounded_where_that_is_asked() -> None:
    critic, teacher, owner = network(), network(), pipeline()
    condition, video = owner.condition(CAPTIONS), torch.randn(2, 6, *critic.spec.latent_shape)
    found: list[Tensor] = []
    for bound in (None, 0.01):
        torch.manual_seed(2)
        found.append(DMD(bound=bound).gradient(Match(critic, condition, teacher, condition), video))
    assert found[0].abs().max() > 0.01
    torch.testing.assert_close(found[1], found[0].clamp(-0.01, 0.01))


@pytest.mark.parametrize(
    ("make", "sampler", "message"),
    [
        (lambda: SelfForcing(DMD(), network()), None, "SelfForcing with DMD needs a teacher"),
        (lambda: SelfForcing(DMD(), network(), network(), ratio=0), None, "SelfForcing.ratio must be"),
        (lambda: SelfForcing(DMD(), network(channels=4), network()), None, "the critic has latents of 4x8x8"),
        (lambda: SelfForcing(DMD(), network(), network(height=4)), None, "the teacher has latents of 8x4x8"),
        (lambda: SelfForcing(DMD(), network(), network(), frames=2), None, "SelfForcing.frames is 2, which are not"),
        (lambda: SelfForcing(DMD(), network(), network(), exit_steps=[2]), None, "names step 2, .* steps 0 to 1"),
        (lambda: SelfForcing(DMD(), network(), network()), Euler(2, guidance=3.0), "without guidance"),
        (
            lambda: SelfForcing(DMD(), network(), network()),
            FewStep((1000, 500), first_timesteps=(1000,)),
            "leave first_timesteps",
        ),
        (lambda: SelfForcing(GAN((0.0, 0.1)), network()), None, "name the layers"),
        (lambda: SelfForcing(GAN((0.0,)), network(), frames=6), None, "compares rollouts of 6"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_in_one_sentence(make: Any, sampler: Sampler | None, message: str) -> None:
    latents = torch.zeros(2, 3, 8, 8, 8)
    with pytest.raises(UserError, match=message):
        make()(pipeline(sampler), {"caption": CAPTIONS, "latents": latents})
