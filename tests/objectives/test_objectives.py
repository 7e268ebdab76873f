"""Training losses: what the backbone is shown, what it is asked for, and what flows back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from objective_parts import BLOCK, CAPTIONS, FRAMES, Linear, clips, errors, latents_of, network, pipeline, two
from torch import Tensor

from rollforge.backbones.base import Condition
from rollforge.backbones.pocket.text import PocketText
from rollforge.errors import UserError
from rollforge.objectives.base import Clips
from rollforge.objectives.bidirectional import Bidirectional
from rollforge.objectives.flow import DiffusionForcing, FlowMatching, TeacherForcing
from rollforge.objectives.reconstruction import Reconstruction
from rollforge.objectives.resampling import ResamplingForcing


def later(values: Tensor, first: int, seed: int = 9) -> Tensor:
    """The same values up to frame ``first``, others from there on."""
    other = torch.randn(values.shape, generator=torch.Generator().manual_seed(seed))
    return torch.cat([values[:, :first], other[:, first:]], dim=1)


def earlier(values: Tensor, end: int) -> Tensor:
    """Other values up to frame ``end``, the same from there on."""
    return torch.cat([later(values, 0)[:, :end], values[:, end:]], dim=1)


def test_clips_of_another_size_are_refused_before_they_are_encoded() -> None:
    larger = Clips(video=torch.zeros(2, FRAMES, 8, 6, 3, dtype=torch.uint8), caption=CAPTIONS)
    with pytest.raises(UserError, match=r"^DiffusionForcing: the clips are 6x8 pixels, the model makes 4x4; let data"):
        DiffusionForcing()(pipeline(Linear()), larger)


@pytest.mark.parametrize("kind", [DiffusionForcing, TeacherForcing, ResamplingForcing])
def test_each_block_has_a_level_of_its_own_and_its_frames_share_it(kind: type[FlowMatching]) -> None:
    objective = kind()
    torch.manual_seed(0)
    levels = objective.levels(pipeline(), torch.zeros(64, FRAMES, 3, 4, 4))
    assert levels.shape == (64, FRAMES)
    blocks = levels.unflatten(1, (-1, BLOCK))
    assert torch.equal(blocks, blocks[..., :1].expand_as(blocks))
    assert blocks[..., 0].unique().numel() == 64 * FRAMES // BLOCK
    assert levels.min() >= 0
    assert levels.max() <= 1000
    assert levels.mean() == pytest.approx(500, abs=70)


def test_shift_moves_levels_towards_noise() -> None:
    latents = torch.zeros(64, FRAMES, 3, 4, 4)
    torch.manual_seed(0)
    plain = DiffusionForcing(shift=1).levels(pipeline(), latents) / 1000
    torch.manual_seed(0)
    moved = DiffusionForcing(shift=3).levels(pipeline(), latents) / 1000
    torch.testing.assert_close(moved, 3 * plain / (1 + 2 * plain))


def test_diffusion_forcing_is_the_error_of_the_flow_computed_by_hand() -> None:
    objective, backbone, batch = DiffusionForcing(drop_text=0), Linear(slope=0.7, offset=0.1), clips()
    torch.manual_seed(3)
    losses = objective(pipeline(backbone), batch)
    ((noisy, timesteps, _),) = backbone.shown
    sigma = timesteps.double()[..., None, None, None] / 1000
    assert noisy.shape == (2, FRAMES, 3, 4, 4)
    assert sigma.min() > 0.01  # so that the noise can be told from the noisy latents
    clean = latents_of(batch).double()
    noise = (noisy.double() - (1 - sigma) * clean) / sigma
    assert noise.std() == pytest.approx(1, abs=0.1)
    error = (0.7 * noisy.double() + 0.1 - (noise - clean)) ** 2
    assert losses["loss"].item() == pytest.approx(error.mean().item(), rel=1e-4)
    assert losses["loss_first_block"].item() == pytest.approx(error[:, :BLOCK].mean().item(), rel=1e-4)


def test_diffusion_forcing_sees_no_later_block_and_earlier_blocks_with_their_noise() -> None:
    backbone, (latents, noise) = network(), two()
    error = errors(DiffusionForcing(), backbone, latents, noise)
    changed = errors(DiffusionForcing(), backbone, later(latents, 6), later(noise, 6))
    assert torch.equal(changed[:, :6], error[:, :6])
    assert not torch.isclose(changed[:, 6:], error[:, 6:]).any()
    history = errors(DiffusionForcing(), backbone, latents, earlier(noise, BLOCK))
    assert not torch.equal(history[:, BLOCK:], error[:, BLOCK:])


def test_teacher_forcing_sees_no_later_block() -> None:
    backbone, (latents, noise) = network(), two()
    error = errors(TeacherForcing(), backbone, latents, noise)
    for first in (3, 6):
        changed = errors(TeacherForcing(), backbone, later(latents, first), later(noise, first))
        assert torch.equal(changed[:, :first], error[:, :first])
        assert not torch.isclose(changed[:, first:], error[:, first:]).any()


def test_teacher_forcing_sees_history_clean_and_only_clean() -> None:
    backbone, (latents, noise) = network(), two()
    error = errors(TeacherForcing(), backbone, latents, noise)
    other_noise = errors(TeacherForcing(), backbone, latents, earlier(noise, BLOCK))
    assert torch.equal(other_noise[:, BLOCK:], error[:, BLOCK:])
    assert not torch.equal(other_noise[:, :BLOCK], error[:, :BLOCK])
    other_history = errors(TeacherForcing(), backbone, earlier(latents, BLOCK), noise)
    assert not torch.isclose(other_history[:, BLOCK:], error[:, BLOCK:], rtol=1e-7, atol=0).all()


def test_teacher_forcing_never_shows_a_block_its_own_clean_frames() -> None:
    """Else the first block's prediction would depend on its clean copy beyond its noisy one."""
    backbone, (latents, noise) = network(), two()
    objective = TeacherForcing()
    owner = pipeline(backbone)
    kept = []
    for history in (latents, later(latents, 6), later(latents, 3)):
        torch.manual_seed(5)
        kept.append(objective.on_history(owner, history, latents, noise, owner.condition(CAPTIONS)).detach())
    assert torch.equal(kept[1], kept[0])  # the last block's own history copy is seen by nobody
    assert torch.equal(kept[2][:, :6], kept[0][:, :6])
    assert not torch.equal(kept[2][:, 6:], kept[0][:, 6:])


def test_teacher_forcing_shows_clean_frames_at_timestep_zero() -> None:
    backbone, (latents, noise) = Linear(), two()
    error = errors(TeacherForcing(), backbone, latents, noise)
    ((both, timesteps, _),) = backbone.shown
    assert torch.equal(both[:, :FRAMES], latents)
    assert (timesteps[:, :FRAMES] == 0).all()
    sigma = timesteps[:, FRAMES:, None, None, None] / 1000
    noisy = (1 - sigma) * latents + sigma * noise
    torch.testing.assert_close(both[:, FRAMES:], noisy)
    torch.testing.assert_close(error, ((0.7 * noisy + 0.1 - (noise - latents)) ** 2).mean(dim=(2, 3, 4)))


def test_a_bidirectional_network_sees_every_frame_at_one_level_for_the_clip() -> None:
    backbone, (latents, noise) = network(), two()
    error = errors(Bidirectional(), backbone, latents, noise)
    changed = errors(Bidirectional(), backbone, later(latents, 6), later(noise, 6))
    assert not torch.isclose(changed, error, rtol=1e-7, atol=0).any()
    shown = Linear()
    errors(Bidirectional(shift=2.0), shown, latents, noise)
    ((noisy, timesteps, _),) = shown.shown
    assert torch.equal(timesteps, timesteps[:, :1].expand_as(timesteps))
    assert timesteps[0, 0] != timesteps[1, 0]
    sigma = timesteps[..., None, None, None] / 1000
    torch.testing.assert_close(noisy, (1 - sigma) * latents + sigma * noise)


def test_resampled_history_is_one_euler_step_from_one_level_for_the_video() -> None:
    objective, backbone, (latents, _) = ResamplingForcing(), Linear(slope=0.7, offset=0.0), two()
    owner = pipeline(backbone)
    torch.manual_seed(4)
    made = objective.resample(owner, latents, owner.condition(CAPTIONS))
    assert made.shape == latents.shape
    assert not torch.isclose(made, latents).all()
    denoised, committed = backbone.shown[::2], backbone.shown[1::2]
    assert (len(denoised), len(committed)) == (3, 2)  # nothing reads the last block
    levels = torch.cat([timesteps for _, timesteps, _ in denoised], dim=1)
    assert torch.equal(levels, levels[:, :1].expand_as(levels))
    assert levels[0, 0] != levels[1, 0]
    for n, (noisy, timesteps, _) in enumerate(denoised):
        sigma = timesteps[..., None, None, None] / 1000
        torch.testing.assert_close(made[:, n * BLOCK : (n + 1) * BLOCK], noisy * (1 - sigma * 0.7))
    for n, (clean, timesteps, _) in enumerate(committed):
        assert torch.equal(clean, made[:, n * BLOCK : (n + 1) * BLOCK])
        assert (timesteps == 0).all()


def test_milder_history_shift_stays_closer_to_the_clips() -> None:
    latents, _ = two()
    far = []
    for shift in (0.2, 5.0):
        objective = ResamplingForcing(history_shift=shift)
        owner = pipeline(Linear(slope=0.0, offset=0.0))
        torch.manual_seed(4)
        far.append((objective.resample(owner, latents, owner.condition(CAPTIONS)) - latents).std())
    assert far[0] < far[1]


def test_resampled_blocks_follow_from_resampled_blocks_before_them() -> None:
    objective, (latents, _) = ResamplingForcing(), two()
    owner = pipeline(network())
    made = []
    for given in (latents, later(latents, 6), earlier(latents, BLOCK)):
        torch.manual_seed(4)
        made.append(objective.resample(owner, given, owner.condition(CAPTIONS)))
    assert torch.equal(made[1][:, :6], made[0][:, :6])
    assert not torch.isclose(made[2][:, BLOCK:], made[0][:, BLOCK:], rtol=1e-7, atol=0).all()


def test_resampling_forcing_trains_on_its_own_history_towards_the_clean_clip() -> None:
    backbone, (latents, noise) = Linear(), two()
    error = errors(ResamplingForcing(), backbone, latents, noise)
    both, timesteps, _ = backbone.shown[-1]
    torch.manual_seed(5)
    owner = pipeline()
    made = ResamplingForcing().resample(owner, latents, owner.condition(CAPTIONS))
    assert torch.equal(both[:, :FRAMES], made)
    assert not torch.isclose(made, latents).any(dim=0).all()
    assert (timesteps[:, :FRAMES] == 0).all()
    noisy = both[:, FRAMES:]
    sigma = timesteps[:, FRAMES:, None, None, None] / 1000
    torch.testing.assert_close(noisy, (1 - sigma) * latents + sigma * noise)
    torch.testing.assert_close(error, ((0.7 * noisy + 0.1 - (noise - latents)) ** 2).mean(dim=(2, 3, 4)))


def test_no_gradient_flows_through_the_resampled_history() -> None:
    """The gradient equals that of training on the same history given as data."""
    latents, noise = two()
    objective, backbone = ResamplingForcing(), network()
    owner = pipeline(backbone)
    condition = owner.condition(CAPTIONS)
    torch.manual_seed(5)
    objective.flow_error(owner, latents, noise, condition).mean().backward()
    through = [p.grad.clone() for p in backbone.parameters() if p.grad is not None]
    backbone.zero_grad()
    torch.manual_seed(5)
    history = objective.resample(owner, latents, condition)
    assert not history.requires_grad
    objective.on_history(owner, history, latents, noise, condition).mean().backward()
    given = [p.grad for p in backbone.parameters() if p.grad is not None]
    assert through
    for one, other in zip(through, given, strict=True):
        torch.testing.assert_close(one, other)


def test_a_single_block_has_no_history_to_resample() -> None:
    backbone, (latents, noise) = Linear(), two()
    errors(ResamplingForcing(), backbone, latents[:, :BLOCK], noise[:, :BLOCK])
    assert len(backbone.shown) == 1


def shown(objective: FlowMatching, frames: int = FRAMES) -> tuple[Tensor, Tensor, Condition]:
    """What one training step shows to the backbone, its levels, and the text."""
    backbone = Linear()
    torch.manual_seed(6)
    objective(pipeline(backbone), clips(frames))
    return backbone.shown[-1]


@pytest.mark.parametrize(("step", "length"), [(0, 3), (9, 3), (10, 6), (500, 9)])
def test_the_curriculum_cuts_clips_into_pieces_in_order(
    step: int, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    objective = DiffusionForcing(drop_text=0, curriculum={0: 3, 10: 6, 20: 9})
    objective.step = step
    noisy, timesteps, condition = shown(objective)
    pieces = FRAMES // length
    assert noisy.shape[:2] == (2 * pieces, length)
    clean = noisy / (1 - timesteps[..., None, None, None] / 1000)
    whole = latents_of(clips())[:, : pieces * length]
    torch.testing.assert_close(clean.unflatten(0, (2, pieces)).flatten(1, 2), whole, rtol=1e-3, atol=1e-3)
    expected = PocketText()([caption for caption in CAPTIONS for _ in range(pieces)])
    assert torch.equal(condition.embeds, expected.embeds)


def test_frames_beyond_the_last_whole_block_are_left_out() -> None:
    assert shown(DiffusionForcing(), frames=8)[0].shape[:2] == (2, 6)


def test_single_blocks_are_trained_whatever_the_curriculum_says() -> None:
    assert shown(DiffusionForcing(single_blocks=1.0, curriculum={0: 9}))[0].shape[:2] == (6, BLOCK)


@pytest.mark.parametrize(("share", "dropped"), [(0.0, False), (1.0, True)])
def test_dropped_text_is_the_empty_prompt(share: float, dropped: bool) -> None:
    embeds = shown(DiffusionForcing(drop_text=share))[2].embeds
    assert torch.equal(embeds, PocketText()(["", ""] if dropped else CAPTIONS).embeds)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (lambda: DiffusionForcing(curriculum={5: 3}), "from step 0 on"),
        (lambda: shown(DiffusionForcing(), frames=2), "not whole blocks of 3"),
        (lambda: shown(DiffusionForcing(curriculum={0: 4})), "not whole blocks of 3"),
        (lambda: Reconstruction()(pipeline(), clips()), "Pixels defines no loss"),
    ],
)
def test_what_cannot_be_trained_says_why(wrong: Any, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        wrong()
