"""Resampling Forcing: several Euler steps, levels, probability, the history of the last step, and routed history."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from objective_parts import BLOCK, CAPTIONS, FRAMES, Linear, clips, errors, network, pipeline, two
from torch import Tensor

from rollforge.errors import UserError
from rollforge.lightning.distributed_samplers import ResumableSampler
from rollforge.memory import MaskedMemory, RoutedMemory
from rollforge.memory.routing import Routing
from rollforge.noise import IndependentNoise
from rollforge.objectives.flow import DiffusionForcing, TeacherForcing
from rollforge.objectives.resampling import ResamplingForcing
from rollforge.policies import Window
from rollforge.rollout import Rollout
from rollforge.samplers import FewStep

HISTORY = FRAMES - BLOCK


def routing(**how: Any) -> Any:
    return lambda *parts: RoutedMemory(*parts, **how)


def test_history_follows_several_euler_steps_within_the_given_levels() -> None:
    backbone, (latents, _) = Linear(slope=0.7, offset=0.0), two()
    objective = ResamplingForcing(history_steps=4, history_levels=(400, 400), history_shift=0.25)
    owner = pipeline(backbone)
    made = objective.resample(owner, latents, owner.condition(CAPTIONS))
    first = backbone.shown[:4]
    assert [timesteps.unique().tolist() for _, timesteps, _ in first] == [[400], [300], [200], [100]]
    x = first[0][0]
    for _ in range(4):
        x = x - 0.1 * 0.7 * x
    torch.testing.assert_close(made[:, :BLOCK], x)


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (2000, 0.1), (4000, 0.2), (10_000, 0.2)])
def test_the_probability_rises_over_the_annealed_steps(
    step: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = ResamplingForcing(probability=0.2, anneal=4000)
    objective.step = step
    for drawn, chosen in ((share - 1e-4, True), (share + 1e-4, False)):
        monkeypatch.setattr(torch, "rand", lambda *shape, drawn=drawn, **options: torch.tensor(drawn))
        assert objective.chosen() is chosen


def test_steps_on_clean_history_are_those_of_teacher_forcing() -> None:
    latents, noise = two()
    backbone = network()
    found = errors(ResamplingForcing(probability=0.0), backbone, latents, noise)
    assert torch.equal(found, errors(TeacherForcing(), backbone, latents, noise))
    chosen = [ResamplingForcing(probability=0.3) for _ in range(200)]
    for n, each in enumerate(chosen):
        each.step = n
    assert 30 < sum(each.chosen() for each in chosen) < 90


def test_the_cheap_mode_takes_what_was_predicted_of_the_same_clip_in_the_step_before() -> None:
    (latents, noise), other = two(), two()[1]
    objective, backbone = ResamplingForcing(history_from="last_step"), Linear(slope=0.7, offset=0.1)
    errors(objective, backbone, latents, noise)
    errors(objective, backbone, latents, noise, seed=6)
    errors(objective, backbone, other, noise)
    assert len(backbone.shown) == 3  # no passes of its own
    (first, t, _), (second, _, _), (third, _, _) = backbone.shown
    noisy = first[:, FRAMES:]
    predicted = noisy - t[:, FRAMES:, None, None, None] / 1000 * (0.7 * noisy + 0.1)
    assert torch.equal(first[:, :FRAMES], latents)
    torch.testing.assert_close(second[:, :FRAMES], predicted)
    assert torch.equal(third[:, :FRAMES], other)


def test_the_prediction_of_the_last_step_is_part_of_a_checkpoint() -> None:
    latents, noise = two()
    objective, resumed = (ResamplingForcing(history_from="last_step") for _ in range(2))
    backbone = network()
    errors(objective, backbone, latents, noise)
    resumed.load_state_dict(objective.state_dict())
    assert torch.equal(*(errors(each, backbone, latents, noise, seed=6) for each in (objective, resumed)))


def test_a_repeated_batch_comes_in_a_row_and_after_a_resume_once_less() -> None:
    def order(done: int) -> list[int]:
        return [clip for _, clip in ResumableSampler(6, 2, lambda: (0, done), 3, repeat=3)]

    batches = [order(0)[n : n + 2] for n in range(0, 18, 2)]
    assert len(ResumableSampler(6, 2, lambda: (0, 0), 3, repeat=3)) == 18
    assert batches[0] == batches[1] == batches[2] != batches[3]
    assert sorted(clip for batch in batches[::3] for clip in batch) == list(range(6))
    assert order(4) == order(0)[8:]


@pytest.mark.parametrize("how", [{"top_k": 2}, {"top_k": 3, "forced": ("first",)}, {"top_k": 1, "choice": "frame"}])
def test_routed_training_sees_what_a_routed_rollout_sees(how: dict[str, Any]) -> None:
    """The last block of a pass over history and noisy copy, against the same block after a cached history."""
    latents, noise = two()
    owner = pipeline(network().requires_grad_(False), memory=routing(**how))
    condition, level = owner.condition(CAPTIONS), torch.full((2, FRAMES), 600.0)
    made = TeacherForcing.predicted(owner, latents, noise, level, condition)

    class Given(IndependentNoise):
        def draw(self, seed: int, sample: int, frames: range, level: int, shape: Any) -> Tensor:
            return noise[sample, frames.start : frames.stop]

    rolls = Rollout(
        owner.backbone, Window(2), FewStep((600,), shift=1.0), Given(), owner.positions, memory=owner.memory
    )
    *_, last = rolls(condition, FRAMES, given=latents[:, :HISTORY])
    cached = (noise[:, HISTORY:] - last.latents) / 0.6
    torch.testing.assert_close(made[:, HISTORY:], cached, rtol=1e-4, atol=1e-4)
    dense = TeacherForcing.predicted(pipeline(owner.backbone), latents, noise, level, condition)
    assert not torch.allclose(dense[:, HISTORY:], cached, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", [TeacherForcing, DiffusionForcing])
def test_training_that_keeps_all_frames_is_dense(kind: type[TeacherForcing]) -> None:
    latents, noise = two()
    found = []
    for top_k in (HISTORY, None, 1):
        owner = pipeline(network(), memory=routing(top_k=top_k))
        torch.manual_seed(5)
        found.append(kind().flow_error(owner, latents, noise, owner.condition(CAPTIONS)).detach())
    dense = errors(kind(), network(), latents, noise)
    assert torch.equal(found[0], dense)
    assert torch.equal(found[1], dense)
    assert not torch.isclose(found[2][:, HISTORY:], dense[:, HISTORY:], rtol=1e-5).any()


def test_every_frame_kept_through_the_routed_path_equals_dense_attention() -> None:
    """With as many frames as there are, chosen one by one, the hidden scores are none."""
    spec = network().spec
    drawn = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 2 * FRAMES * spec.tokens, spec.heads, spec.head_dim, generator=drawn)
    dense, routed = (MaskedMemory.teacher_forcing(spec, FRAMES, None, each) for each in (None, Routing(HISTORY)))
    object.__setattr__(routed.routing, "keeps_all", lambda frames: frames == 0)
    torch.testing.assert_close(routed.attend(0, q, k, v), dense.attend(0, q, k, v))


def test_levels_that_do_not_rise_are_refused() -> None:
    with pytest.raises(UserError, match=r"ResamplingForcing.history_levels must rise, not \[950"):
        ResamplingForcing(history_levels=(950.0, 50.0))


def test_resampled_history_is_rolled_with_the_models_memory() -> None:
    made: list[int] = []

    def memory(*parts: Any) -> RoutedMemory:
        made.append(1)
        return RoutedMemory(*parts, top_k=1)

    torch.manual_seed(0)
    losses = ResamplingForcing()(pipeline(network(), memory=memory), clips())
    assert len(made) == 2  # for the rollout, and to ask for its routing
    assert losses["loss"].isfinite()
