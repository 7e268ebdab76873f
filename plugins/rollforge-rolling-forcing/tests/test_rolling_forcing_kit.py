"""Policy and sampler pass the checks of ``rollforge.testing``, together and with parts that they were not made for."""

from __future__ import annotations

import pytest
import torch
from rollforge_rolling_forcing import JointFewStep, RollingForcing

from rollforge.errors import UserError
from rollforge.policies import RollingSink
from rollforge.policies.sliding_indices import SlidingIndices
from rollforge.spec import Step
from rollforge.testing import check_policy, check_resume, check_sampler
from rollforge.testing.rolled import check_batch
from rollforge.testing.tiny import Rolls


def test_the_policy_passes_the_kit() -> None:
    check_policy(RollingForcing(), blocks=1000)


def test_the_sampler_passes_the_kit() -> None:
    check_sampler(JointFewStep((1000, 600, 200), context_noise=50))


@pytest.mark.parametrize("estimates", [True, False])
def test_a_rollout_equals_itself_in_a_batch_and_resumed_with_blocks_in_progress(estimates: bool) -> None:
    sampler = JointFewStep(estimates=estimates)
    check_batch("sampler", sampler, Rolls(RollingForcing(), sampler, blocks=7))
    check_resume(RollingForcing(), sampler, blocks=8, switches=(4,))


def test_estimates_do_not_change_the_video() -> None:
    with_them, without = (Rolls(RollingForcing(), JointFewStep(estimates=on)).blocks_of() for on in (True, False))
    assert all(map(torch.equal, with_them, without))


def test_an_extended_video_goes_on_with_a_new_window() -> None:
    rolls = Rolls(RollingForcing(), JointFewStep((1000, 500)), blocks=6)
    short = rolls.start(blocks=3)
    whole = [block.latents for block in short]
    longer = rolls.blocks_of(state=short.state_dict())
    assert len(whole) + len(longer) == 6
    assert all(block.isfinite().all() for block in longer)


def test_one_block_at_a_time_reads_what_sliding_indices_reads() -> None:
    ours, theirs = RollingForcing(6, 1), SlidingIndices(6, 1)
    for index in range(40):
        assert ours.plan(Step.of(index, 3)).entries() == theirs.plan(Step.of(index, 3)).entries()


def test_the_sampler_rolls_other_policies() -> None:
    made = Rolls(RollingSink(2, 1), JointFewStep((1000, 500)), blocks=6).blocks_of()
    assert len(made) == 6
    assert all(block.isfinite().all() for block in made)


@pytest.mark.parametrize(
    ("policy", "sampler", "sentence"),
    [
        (RollingForcing(4, 1), JointFewStep(), "window of 15 frames.* need 18; raise context_blocks to 5 or more"),
        (RollingForcing(6, 3), JointFewStep(), "window of 21 frames.* need 24; raise context_blocks to 7 or more"),
    ],
)
def test_a_window_that_is_too_short_is_refused_before_the_first_block(
    policy: RollingForcing, sampler: JointFewStep, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        Rolls(policy, sampler).start()


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="sink_blocks=7 and context_blocks=6"):
        RollingForcing(sink_blocks=7)
    with pytest.raises(UserError, match="JointFewStep: timesteps must fall"):
        JointFewStep((200, 1000))
