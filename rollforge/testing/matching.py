"""The check of matching losses."""

from __future__ import annotations

import torch
from torch import Tensor

from rollforge.backbones.pocket.network import Pocket
from rollforge.backbones.pocket.text import PocketText
from rollforge.objectives.matching import Match, Matched, Matching
from rollforge.testing.rules import expect, keeping

FRAMES, VIDEOS = 6, 2


def check_matching(matching: Matching) -> None:
    """Checks a matching loss with two videos of noise and small Pockets as critic and teacher.

    Raises:
        CheckFailed: with the rule and what was found.
    """
    networks = [
        Pocket(dim=32, layers=6, heads=2, ffn_dim=64, window=FRAMES, horizon=FRAMES, weights="random") for _ in range(2)
    ]
    with keeping("matching-loss", matching, "Making its critic"):
        critic, teacher = matching.critic(networks[0]), networks[1].requires_grad_(False)
    generator, text = torch.Generator().manual_seed(5), PocketText()
    made, real = torch.randn(2, VIDEOS, FRAMES, *networks[0].spec.latent_shape, generator=generator)
    condition, negative = (text([prompt] * VIDEOS) for prompt in ("a red ball over snow at day", ""))
    match = Match(critic, condition, teacher, negative, real)

    critic.requires_grad_(False)
    video = made.clone().requires_grad_(True)
    with keeping("matching-loss", matching, f"For the student, with {VIDEOS} videos of {FRAMES} frames,"):
        _check(matching, "student", student := matching.student(match, video))
        gradient = torch.autograd.grad(student.loss, video, allow_unused=True)[0]
    reaches = gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.any())
    expect(reaches, "matching-student", matching, f"The gradient of the video is {_described(gradient)}.")

    critic.requires_grad_(True)
    with keeping("matching-loss", matching, f"For the critic, with {VIDEOS} videos of {FRAMES} frames,"):
        _check(matching, "critic", trained := matching.train_critic(match, made))
        trained.loss.backward()
    learning = any(weight.grad is not None and bool(weight.grad.any()) for weight in critic.parameters())
    expect(
        learning, "matching-critic", matching,
        f"After loss.backward() the gradients of all {len([*critic.parameters()])} weights of the critic are 0.",
    )  # fmt: skip


def _check(matching: Matching, network: str, matched: Matched) -> None:
    """Checks what a loss is made of."""
    scalars = {"loss": matched.loss, **matched.logged}
    sound = all(value.dim() == 0 and bool(value.isfinite()) for value in scalars.values())
    frames = matched.frames is None or (
        tuple(matched.frames.shape) == (FRAMES,) and bool(matched.frames.isfinite().all())
    )
    expect(sound and frames, "matching-loss", matching, f"For the {network} it returned {matched!r:.200}.")


def _described(gradient: Tensor | None) -> str:
    return "None" if gradient is None else f"{gradient.abs().max().item():.3g} at most"
