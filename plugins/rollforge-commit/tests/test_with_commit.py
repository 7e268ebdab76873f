"""A sampler with commit passes, or with what the last denoising pass has left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rollforge_commit import CommitRecent, WithCommit
from rollforge_rolling_forcing import JointFewStep
from torch import Tensor

import rollforge
from rollforge.errors import UserError
from rollforge.policies import RollingSink
from rollforge.samplers import Euler, FewStep, Job, Keep, Pass, Passes, Sampler
from rollforge.samplers.base import Noise
from rollforge.spec import Phase, Step
from rollforge.testing import check_resume, check_sampler
from rollforge.testing.tiny import Rolls

CONFIGS = Path(__file__).parents[1] / "configs"


class CommitsNoisyLatents(FewStep):
    """Runs the last denoising pass of every block once more, as a commit pass."""

    def run(self, job: Job) -> Passes:
        passes, reply = super().run(job), None
        while True:
            try:
                request = passes.send(reply)
            except StopIteration:
                return
            if isinstance(request, Pass) and request.step.phase is Phase.DENOISE:
                self.noisy, self.level = request.latents, request.timestep
            reply = yield self._noisy(request) if isinstance(request, Pass) else request

    def commit(self, step: Step, clean: Tensor, noise: Noise) -> Iterator[Pass | Keep]:
        for request in super().commit(step, clean, noise):
            assert isinstance(request, Pass)
            yield self._noisy(request)

    def _noisy(self, request: Pass) -> Pass:
        if request.step.phase is not Phase.COMMIT:
            return request
        return replace(request, latents=self.noisy, timestep=self.level)


def counted(rolls: Rolls) -> tuple[list[Tensor], int]:
    """The blocks of a rollout, and how often the network ran."""
    passes: list[int] = []
    hook = rolls.backbone.register_forward_pre_hook(lambda *_: passes.append(1))
    made = rolls.blocks_of()
    hook.remove()
    return made, len(passes)


def test_the_last_pass_leaves_what_a_commit_of_its_noisy_latents_would() -> None:
    kept, few = counted(Rolls(RollingSink(2, 1), WithCommit(FewStep((1000, 500)))))
    again, many = counted(Rolls(RollingSink(2, 1), CommitsNoisyLatents((1000, 500))))
    clean, _ = counted(Rolls(RollingSink(2, 1), FewStep((1000, 500))))
    assert (few, many) == (8 * 2, 8 * 2 + 7)
    for one, other in zip(kept, again, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    assert not torch.allclose(kept[2], clean[2], atol=1e-3)


def test_clean_changes_nothing() -> None:
    plain, wrapped = (counted(Rolls(sampler=each)) for each in (FewStep(), WithCommit(FewStep(), "clean")))
    assert plain[1] == wrapped[1]
    assert all(map(torch.equal, plain[0], wrapped[0]))


def test_it_passes_the_kit_with_guidance_that_ends() -> None:
    check_sampler(WithCommit(Euler(steps=2, guidance=2.0, guided_blocks=3)))


def test_it_resumes_with_keys_and_values_and_is_refused_without() -> None:
    sampler = WithCommit(FewStep((1000, 500)))
    check_resume(CommitRecent(RollingSink(2, 1)), sampler, blocks=6)
    run = Rolls(sampler=sampler).start()
    next(run)
    with pytest.raises(UserError, match=r"WithCommit keeps .* set snapshots\.kv to 'save'"):
        run.state_dict(kv=False)


def test_a_state_of_another_sampler_is_committed_with_a_pass() -> None:
    run = Rolls(sampler=FewStep((1000, 500)), blocks=4).start()
    next(run)
    state = run.state_dict()
    rest = Rolls(sampler=WithCommit(FewStep((1000, 500))), blocks=4).blocks_of(state=state)
    assert torch.equal(rest[0], next(run).latents)
    assert len(rest) == 3


class Unusual(FewStep):
    guidance_branches = ("prompt",)
    needs_extra = True
    batches = False

    def passes(self, block: int) -> int:
        return 7


def test_everything_that_a_rollout_asks_of_a_sampler_is_handed_on() -> None:
    inside = Unusual((1000, 400), context_noise=30, first_timesteps=(1000, 700, 500))
    wrapped = WithCommit(inside, "clean")
    own = {"run", "commit", "dropped"}
    contract = {name for name in vars(Sampler) if not name.startswith("_")} - own
    assert own <= vars(WithCommit).keys()
    assert {name: getattr(wrapped, name) for name in contract - {"passes"}} == {
        name: getattr(inside, name) for name in contract - {"passes"}
    }
    assert (wrapped.passes(3), wrapped.batches, wrapped.first_timesteps) == (7, False, inside.first_timesteps)


def test_several_blocks_in_progress_are_refused() -> None:
    with pytest.raises(UserError, match=r"JointFewStep, which has 2 blocks in progress .* set commit to 'clean'"):
        WithCommit(JointFewStep((1000, 500)))


class Watching(RollingSink):
    observes, sees = (0,), ("k",)


def test_a_policy_that_observes_passes_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"policy Watching observes passes.* the sampler WithCommit runs no commit passes;"
    ):
        Rolls(Watching(2, 1), WithCommit(FewStep())).start()


@pytest.mark.usefixtures("installed")
def test_a_config_nests_a_policy_in_a_policy_and_a_sampler_in_a_sampler(capsys: pytest.CaptureFixture[str]) -> None:
    recent = rollforge.load(CONFIGS / "commit-recent.yaml", "model.policy.init_args.policy.init_args.context_blocks=7")
    last = rollforge.load(CONFIGS / "commit-last.yaml")
    assert isinstance(recent.policy, CommitRecent)
    assert isinstance(recent.policy.policy, RollingSink)
    assert (recent.policy.frames, recent.policy.context_blocks, recent.policy.sink_blocks) == (6, 7, 5)
    assert isinstance(last.sampler, WithCommit)
    assert (last.sampler.how, last.sampler.guidance, last.sampler.guidance_branches) == (
        "last",
        3,
        ("prompt", "negative"),
    )
    with pytest.raises(UserError, match=r"RollingSink\.context_blocks must be a whole number of 1 or more, not 0"):
        rollforge.load(CONFIGS / "commit-recent.yaml", "model.policy.init_args.policy.init_args.context_blocks=0")
