"""Samplers against loops written out by hand, on flows with a closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rollforge.errors import UserError
from rollforge.samplers import Euler, FewStep, Finished, Job, Pass, Sampler
from rollforge.samplers.base import add_noise, shifted
from rollforge.spec import Phase, Step

SHAPE = (2, 3, 1, 2, 2)
Flow = Callable[[Pass], Tensor]


def noise(step: Step, level: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(100 * step.index + level), dtype=torch.float64)


def toy(request: Pass) -> Tensor:
    """A flow that bends with the latents, the timestep and the branch."""
    push = 1.0 if request.guidance_branch == "prompt" else -0.5
    return torch.sin(request.latents) * (float(request.timestep) / 1000 + 0.3) + push


def drive(
    sampler: Sampler, blocks: int, flow: Flow = toy, noise: Callable[[Step, int], Tensor] = noise
) -> tuple[list[Pass], list[Tensor], list[str]]:
    """The passes that a sampler asked for, the blocks it finished, and both in order."""
    passes: list[Pass] = []
    finished: list[Tensor] = []
    order: list[str] = []
    running = sampler.run(Job((Step.of(index, 3) for index in range(blocks)), noise))
    answer: Any = None
    while True:
        try:
            request = running.send(answer) if answer is not None else next(running)
        except StopIteration:
            return passes, finished, order
        answer = None
        if isinstance(request, Finished):
            assert request.step.index == len(finished)
            finished.append(request.latents)
            order.append("finished")
        else:
            alone = [replace(request, guidance_branch=branch) for branch in request.branches]
            passes += alone
            order += [f"{each.step.phase.value} {each.guidance_branch}" for each in alone]
            answer = request.answer([flow(each) for each in alone])


def toy_at(x: Tensor, timestep: float, push: float = 1.0) -> Tensor:
    return torch.sin(x) * (timestep / 1000 + 0.3) + push


def test_few_step_is_the_loop_of_self_forcing() -> None:
    _, finished, _ = drive(FewStep(), blocks=3)
    sigmas = [5 * s / (1 + 4 * s) for s in (1.0, 0.75, 0.5, 0.25)]
    assert sigmas == pytest.approx([1.0, 0.9375, 0.8333333, 0.625])
    for index, latents in enumerate(finished):
        step = Step.of(index, 3)
        x = noise(step, 0)
        for n, sigma in enumerate(sigmas):
            clean = x - sigma * toy_at(x, 1000 * sigma)
            if n < 3:
                x = (1 - sigmas[n + 1]) * clean + sigmas[n + 1] * noise(step, n + 1)
        torch.testing.assert_close(latents, clean, rtol=0, atol=1e-12)
    assert len(finished) == 3


def test_few_step_says_its_phases_and_levels() -> None:
    passes, finished, order = drive(FewStep(timesteps=[1000, 500], shift=1.0), blocks=2)
    assert order == ["denoise prompt", "denoise prompt", "finished", "commit prompt"] * 2
    requested = [(p.step.index, p.step.start, p.step.phase, p.step.level, p.timestep) for p in passes[3:]]
    assert requested == [
        (1, 3, Phase.DENOISE, 0, 1000.0),
        (1, 3, Phase.DENOISE, 1, 500.0),
        (1, 3, Phase.COMMIT, 2, 0.0),
    ]
    assert torch.equal(passes[5].latents, finished[1])


@pytest.mark.parametrize("given", [0, 2])
def test_the_first_block_that_is_made_may_have_steps_of_its_own(given: int) -> None:
    sampler = FewStep([1000, 500], first_timesteps=[1000, 750, 500, 250])
    requests = _answered(sampler.run(Job((Step.of(given + n, 3) for n in range(3)), noise, given)))
    passes = [each for each in requests if isinstance(each, Pass) and each.step.phase is Phase.DENOISE]
    asked = [(each.step.index - given, float(each.timestep)) for each in passes]
    assert asked == [
        *((0, t) for t in FewStep().timesteps),
        *((n, t) for n in (1, 2) for t in FewStep([1000, 500]).timesteps),
    ]
    later = sampler.run(Job([Step.of(given + 5, 3)], noise, given))  # as after a cut
    assert len([each for each in _answered(later) if isinstance(each, Pass)]) == 2 + 1


def _answered(running: Any) -> Iterator[Pass | Finished]:
    """All requests of a sampler, each answered with zeros."""
    request = next(running)
    while True:
        yield request
        try:
            request = running.send(torch.zeros(SHAPE)) if isinstance(request, Pass) else next(running)
        except StopIteration:
            return


def by_hand(x: Tensor, sigmas: list[float], guidance: float) -> Tensor:
    for sigma, lower in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        flow = toy_at(x, 1000 * sigma)
        if guidance != 1:
            negative = toy_at(x, 1000 * sigma, push=-0.5)
            flow = negative + guidance * (flow - negative)
        x = x - (sigma - lower) * flow
    return x


@pytest.mark.parametrize("guidance", [1.0, 3.5, 0.0])
@pytest.mark.parametrize(("steps", "shift"), [(1, 5.0), (4, 1.0), (32, 5.0)])
def test_euler_is_the_loop_by_hand(steps: int, shift: float, guidance: float) -> None:
    _, finished, _ = drive(Euler(steps, shift, guidance), blocks=2)
    sigmas = [shift * s / (1 + (shift - 1) * s) for s in (1 - n / steps for n in range(steps))]
    for index, latents in enumerate(finished):
        expected = by_hand(noise(Step.of(index, 3), 0), sigmas, guidance)
        torch.testing.assert_close(latents, expected, rtol=0, atol=1e-12)
    assert len(finished) == 2


def test_guidance_runs_and_commits_both_lanes() -> None:
    sampler = Euler(steps=2, guidance=4.0)
    passes, finished, order = drive(sampler, blocks=1)
    assert sampler.guidance_branches == ("prompt", "negative")
    assert order == ["denoise prompt", "denoise negative"] * 2 + ["finished", "commit prompt", "commit negative"]
    assert [p.step.level for p in passes[:4]] == [0, 0, 1, 1]
    assert torch.equal(passes[0].latents, passes[1].latents)
    assert all(torch.equal(p.latents, finished[0]) and p.timestep == 0 for p in passes[4:])


def test_guidance_may_end_after_the_opening() -> None:
    _, whole, _ = drive(Euler(steps=3, guidance=4.0), blocks=2)
    _, plain, _ = drive(Euler(steps=3), blocks=4)
    passes, finished, order = drive(Euler(steps=3, guidance=4.0, guided_blocks=2), blocks=4)
    assert all(torch.equal(one, other) for one, other in zip(finished, [*whole, *plain[2:]], strict=True))
    later = order[order.index("finished", 10) + 3 :]
    assert later == [*["denoise prompt"] * 3, "finished", "commit prompt", "commit negative"] * 2
    assert len(passes) == 2 * (6 + 2) + 2 * (3 + 2)
    with pytest.raises(UserError, match="guided_blocks"):
        Euler(guided_blocks=0)


def test_no_guidance_is_one_lane() -> None:
    assert FewStep().guidance_branches == Euler(steps=2).guidance_branches == ("prompt",)
    assert drive(Euler(steps=2), blocks=1)[2] == ["denoise prompt", "denoise prompt", "finished", "commit prompt"]


@pytest.mark.parametrize("sampler", [FewStep(), Euler(steps=7)], ids=["few_step", "euler"])
def test_a_straight_flow_ends_at_the_clean_frames(sampler: Sampler) -> None:
    clean = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(SHAPE)

    def straight(request: Pass) -> Tensor:  # (x - clean) / sigma: noise - clean wherever x is on its line
        return (request.latents - clean) / max(float(request.timestep) / 1000, 1e-9)

    for latents in drive(sampler, 2, straight)[1]:
        torch.testing.assert_close(latents, clean, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("sampler", "level"), [(FewStep(context_noise=100.0), 4), (Euler(steps=6, guidance=2.0, context_noise=100.0), 7)]
)
def test_context_noise_touches_the_commit_and_not_the_video(sampler: Sampler, level: int) -> None:
    passes, finished, _ = drive(sampler, blocks=1)
    plain = drive(FewStep() if level == 4 else Euler(steps=6, guidance=2.0), blocks=1)[1]
    assert torch.equal(finished[0], plain[0])
    commits = [p for p in passes if p.step.phase is Phase.COMMIT]
    expected = 0.9 * finished[0] + 0.1 * noise(Step.of(0, 3), level)
    assert len(commits) == len(sampler.guidance_branches)
    for commit in commits:
        assert commit.timestep == 100.0
        torch.testing.assert_close(commit.latents, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "sampler",
    [
        FewStep(context_noise=50.0),
        FewStep([1000, 500], context_noise=50.0, first_timesteps=[1000, 750, 500]),
        Euler(steps=4, context_noise=50.0),
    ],
)
def test_no_level_of_noise_is_drawn_twice(sampler: Sampler) -> None:
    drawn: list[tuple[int, int]] = []

    def recorded(step: Step, level: int) -> Tensor:
        drawn.append((step.index, level))
        return noise(step, level)

    drive(sampler, blocks=2, noise=recorded)
    assert len(drawn) == len(set(drawn)) > 2
    assert {(0, 0), (1, 0)} <= set(drawn)


@pytest.mark.parametrize("wrong", [[], [500, 750], [1000, 1000]])
def test_few_step_levels_must_fall(wrong: Iterable[float]) -> None:
    with pytest.raises(UserError, match=r"^FewStep: timesteps must fall from at most 1000 to above 0, not \["):
        FewStep(list(wrong))
    with pytest.raises(UserError, match=r"^FewStep[:.] ?first_timesteps"):
        FewStep(first_timesteps=list(wrong))


@pytest.mark.parametrize("wrong", [[1001], [500, 0], [500, -1], [math.nan]])
def test_few_step_levels_are_above_0_and_at_most_1000(wrong: list[float]) -> None:
    with pytest.raises(UserError, match=r"^FewStep\.timesteps\[.\] must be a number above 0 and at most 1,000, not "):
        FewStep(wrong)


@pytest.mark.parametrize("steps", [0, -3])
def test_euler_takes_a_step_at_least(steps: int) -> None:
    with pytest.raises(UserError, match=rf"^Euler\.steps must be a whole number from 1 to 10,000, not {steps}\.$"):
        Euler(steps)


@given(st.floats(0, 1000), st.floats(0.1, 20))
def test_a_shift_keeps_the_ends_and_is_undone_by_its_inverse(timestep: float, shift: float) -> None:
    assert shifted(0.0, shift) == 0
    assert shifted(1000.0, shift) == pytest.approx(1000)
    assert shifted(shifted(timestep, shift), 1 / shift) == pytest.approx(timestep, abs=1e-6)
    tensor = shifted(torch.tensor([timestep], dtype=torch.float64), shift)
    assert tensor.item() == pytest.approx(shifted(timestep, shift))
    towards_noise = shifted(timestep, shift) - timestep
    assert towards_noise * (shift - 1) >= -1e-9


def test_noise_is_added_at_one_level_or_at_one_for_each_frame() -> None:
    clean, fresh = torch.randn(2, *SHAPE)
    levels = torch.tensor([[0.0, 250.0, 1000.0], [500.0, 1.0, 999.0]])
    mixed = add_noise(clean, fresh, levels)
    for row in range(2):
        for frame in range(3):
            single = add_noise(clean[row, frame], fresh[row, frame], levels[row, frame].item())
            torch.testing.assert_close(mixed[row, frame], single)
    assert torch.equal(mixed[0, 0], clean[0, 0])
    assert torch.equal(mixed[0, 2], fresh[0, 2])
