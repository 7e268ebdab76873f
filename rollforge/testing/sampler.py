"""The check of samplers."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rollforge.noise import IndependentNoise, Shape, normal
from rollforge.rollout.block_check import BlockCheck
from rollforge.samplers.base import TIMESTEPS, Finished, Job, Keep, Pass, Sampler
from rollforge.spec import Phase, Step
from rollforge.testing.rolled import check_batch, check_cuts, check_turns, finite
from rollforge.testing.rules import expect, fail, keeping, same
from rollforge.testing.tiny import SHAPE, TOLERANCE, Rolls

BLOCKS = 6


def check_sampler(sampler: Sampler) -> None:
    """Checks a sampler, in blocks of three frames and of one.

    Args:
        sampler: as a config would build it, best with few steps. It is copied, not changed.

    Raises:
        CheckFailed: with the rule, the block and the values.
    """
    for block in (3, 1):
        _Trace(deepcopy(sampler), block).follow()
        rolls = Rolls(sampler=sampler, block=block, blocks=BLOCKS)
        _whole(sampler, rolls)
        check_batch("sampler", sampler, rolls)
        check_turns("sampler", sampler, rolls)
        check_cuts("sampler", sampler, rolls)
        _made_again(sampler, block)


@dataclass
class _Trace:
    """Drives a sampler without a network, and checks each request."""

    sampler: Sampler
    block: int
    drawn: set[tuple[int, int]] = field(default_factory=set)
    done: int = 0
    uncommitted: set[str] = field(default_factory=set)

    def follow(self) -> None:
        steps = [Step.of(index, self.block) for index in range(BLOCKS)]
        with keeping("sampler-requests", self.sampler, f"At block {self.done} of {self.block}"):
            passes = self.sampler.run(Job(steps, self._noise))
            answer: Any = None
            while True:
                try:
                    request = passes.send(answer)
                except StopIteration:
                    break
                answer = self._answer(request)
        expect(self.done == BLOCKS, "sampler-order", self.sampler, f"{self.done} of {BLOCKS} blocks are finished.")
        self._committed()

    def _answer(self, request: Any) -> Any:
        if isinstance(request, Finished):
            self._finished(request)
            return True
        if isinstance(request, Keep):
            self.uncommitted -= {*request.branches}
            return None
        if not isinstance(request, Pass):
            fail("sampler-requests", self.sampler, f"At block {self.done} it yields {request!r:.60}.")
        frames, at = request.latents.shape[1], f"At block {request.step.index}, level {request.step.level},"
        wanted = (2, len(request.step.frames), *SHAPE)
        if tuple(request.latents.shape) != wanted:
            fail("sampler-requests", self.sampler, f"{at} the latents are {list(request.latents.shape)}.")
        levels = torch.as_tensor(request.timestep, dtype=torch.float32)
        if levels.numel() not in (1, 2 * frames) or not bool(((levels >= 0) & (levels <= TIMESTEPS)).all()):
            fail("sampler-requests", self.sampler, f"{at} the timestep is {request.timestep!s:.80}.")
        if not {*request.branches} <= {*self.sampler.guidance_branches}:
            problem = f"{at} the branch is {request.guidance_branch!r}, not one of {self.sampler.guidance_branches}."
            fail("sampler-requests", self.sampler, problem)
        if request.step.phase is Phase.COMMIT:
            self.uncommitted -= {*request.branches}
        return request.answer([0.1 * request.latents] * len(request.branches))

    def _finished(self, made: Finished) -> None:
        self._committed()
        expected = Step.of(self.done, self.block)
        place = made.step.index, made.step.start, len(made.step.frames)
        if place != (expected.index, expected.start, self.block):
            problem = f"Block {place[0]} at frame {place[1]} with {place[2]} frames is finished; the next is "
            fail("sampler-order", self.sampler, f"{problem}block {self.done} at frame {expected.start}.")
        wanted = (2, self.block, *SHAPE)
        if tuple(made.latents.shape) != wanted or not finite(made.latents):
            problem = f"Block {self.done} is {list(made.latents.shape)}, expected finite {list(wanted)}."
            fail("sampler-order", self.sampler, problem)
        self.done += 1
        self.uncommitted = set(self.sampler.guidance_branches)

    def _committed(self) -> None:
        if self.uncommitted:
            problem = f"Block {self.done - 1} is not committed in the branch {min(self.uncommitted)!r}."
            fail("sampler-commit", self.sampler, problem)

    def _noise(self, step: Step, level: int) -> Tensor:
        for frame in step.frames:
            if (frame, level) in self.drawn:
                fail("sampler-noise", self.sampler, f"The noise of frame {frame} at level {level} is drawn twice.")
            self.drawn.add((frame, level))
        finished = step.index < self.done
        if finished != (level >= self.sampler.commit_level):
            problem = f"{'After' if finished else 'Before'} block {step.index} is finished level {level} is drawn; "
            fail("sampler-noise", self.sampler, f"{problem}commit_level is {self.sampler.commit_level}.")
        return torch.stack(
            [torch.stack([normal(0, row, frame, level, SHAPE) for frame in step.frames]) for row in (0, 1)]
        )


def _whole(sampler: Sampler, rolls: Rolls) -> None:
    with keeping("sampler-order", sampler, f"Rolled in blocks of {rolls.block}"):
        made = rolls.blocks_of()
    problem = f"A rollout of {rolls.blocks} blocks made {len(made)}."
    expect(len(made) == rolls.blocks, "sampler-order", sampler, problem)
    for index, latents in enumerate(made):
        expect(finite(latents), "sampler-order", sampler, f"Block {index} has numbers that are not finite.")


class _SeedlessNoise(IndependentNoise):
    """The same for every seed, so that a block that is made again is the same."""

    def draw(self, seed: int, sample: int, frames: range, level: int, shape: Shape) -> Tensor:
        return super().draw(0, sample, frames, level, shape)


class _Refusing(BlockCheck):
    """Refuses one block once."""

    def __init__(self, index: int) -> None:
        super().__init__("retry")
        object.__setattr__(self, "index", index)

    def bad_rows(self, step: Step, latents: Tensor, attempts: Sequence[int], seconds: float) -> list[int]:
        refused = step.index == getattr(self, "index", None) and not any(attempts)
        return [0] if refused else []


def _made_again(sampler: Sampler, block: int) -> None:
    whole = Rolls(sampler=sampler, block=block, blocks=BLOCKS, noise=_SeedlessNoise()).blocks_of()
    for refused in (0, 2, BLOCKS - 1):
        rolls = Rolls(sampler=sampler, block=block, blocks=BLOCKS, noise=_SeedlessNoise(), check=_Refusing(refused))
        with keeping("sampler-again", sampler, f"When block {refused} was refused"):
            again = rolls.blocks_of()
        expect(len(again) == BLOCKS, "sampler-again", sampler, f"When block {refused} was refused, {len(again)} came.")
        for index, latents in enumerate(again):
            if sampler.in_flight > 1:  # those in progress start again together, and attend to other frames than before
                expect(finite(latents), "sampler-again", sampler, f"Block {index} has numbers that are not finite.")
                continue
            same(
                "sampler-again", sampler, f"When block {refused} was refused once, in block {index}", latents,
                whole[index], TOLERANCE,
            )  # fmt: skip
