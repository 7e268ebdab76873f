"""The sink of Reward Forcing against a plain buffer of the released program's rules."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from rollforge_reward_forcing import RewardForcing

from rollforge.errors import UserError
from rollforge.rollout import Rollout
from rollforge.samplers import FewStep
from rollforge.spec import Phase, Step
from rollforge.testing import check_plans, check_policy, check_resume
from rollforge.testing.rolled import finite
from rollforge.testing.tiny import Rolls, condition, network

CONFIG = Path(__file__).parents[1] / "configs" / "reward-forcing.yaml"


class Buffer:
    """The released program, frame by frame: what leaves from behind the sink is mixed into its slots in turn.

    A frame's content is the cosine of its number.
    """

    def __init__(self, window: int, sink: int, ema: float) -> None:
        self.window, self.sink, self.ema = window, sink, ema
        self.names: list[int] = []
        self.contents: list[float] = []
        self.left = 0

    def __call__(self, step: Step) -> tuple[list[tuple[int, int]], int]:
        if step.phase is Phase.DENOISE:
            self.begin(len(step.frames))
        read = [(name, place) for place, name in enumerate(self.names)]
        if step.phase is Phase.COMMIT:
            self.append(step.frames)
        return read, len(read)

    def begin(self, coming: int) -> None:
        while len(self.names) + coming > self.window:
            slot = self.left % self.sink
            self.names.pop(self.sink)
            self.contents[slot] = self.ema * self.contents[slot] + (1 - self.ema) * self.contents.pop(self.sink)
            self.names[slot] = -1 - slot
            self.left += 1

    def append(self, frames: range) -> None:
        self.names += frames
        self.contents += map(math.cos, frames)


SIZES = [(3, 9, 3), (3, 21, 3), (1, 6, 2), (3, 12, 1), (2, 11, 4), (3, 7, 2)]


@pytest.mark.parametrize(("block", "window", "sink"), SIZES)
def test_a_thousand_blocks_read_what_the_buffer_holds(block: int, window: int, sink: int) -> None:
    check_plans(RewardForcing(window, sink), Buffer(window, sink, 0.999), block=block)


@pytest.mark.parametrize(("block", "window", "sink"), SIZES)
@pytest.mark.parametrize("opening", [0, 1])
def test_the_sink_averages_all_that_has_left(block: int, window: int, sink: int, opening: int) -> None:
    policy, buffer = RewardForcing(window, sink, 0.9), Buffer(window, sink, 0.9)
    made: dict[int, float] = {}
    starts = [0, *range(opening or block, 1000, block)]
    for start, stop in pairwise(starts):
        step = Step(0, start, block, count=stop - start)
        fresh = {}
        for each in policy.virtual(step):
            assert each.weights is not None
            values = [made[frame] if frame < 0 else math.cos(frame) for frame in each.of]
            fresh[each.frame] = sum(weight * value for weight, value in zip(each.weights, values, strict=True))
        made |= fresh
        buffer.begin(block)
        read = [made[frame] if frame < 0 else math.cos(frame) for frame, _ in policy.plan(step).entries()]
        assert read == pytest.approx(buffer.contents)
        buffer.append(step.frames)


def test_it_passes_the_kit() -> None:
    check_policy(RewardForcing(), blocks=300)


def test_it_resumes_across_a_switch_with_and_without_keys() -> None:
    check_resume(RewardForcing(8, 2, 0.7), switches=(5,))


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        (RewardForcing(6), "window_frames=6 and sink_frames=3.* blocks of 3 .*raise window_frames to 7 or more"),
        (RewardForcing(2, 1), "window_frames=2 and sink_frames=1.* raise window_frames to 5 or more"),
        (
            RewardForcing(9, 12),
            "window_frames=9 and sink_frames=12.* raise window_frames to 16 or more, or lower",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused_before_the_first_block(policy: RewardForcing, sentence: str) -> None:
    with pytest.raises(UserError, match=f"^RewardForcing got {sentence}"):
        Rollout(network(), policy, FewStep())(condition(), 6)


@pytest.mark.parametrize("arguments", [{"window_frames": 0}, {"sink_frames": 0}, {"ema": 1.5}])
def test_numbers_out_of_range_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(UserError, match=rf"RewardForcing\.{next(iter(arguments))} must be"):
        RewardForcing(**arguments)  # type: ignore[arg-type]


def test_the_config_names_the_policy_with_its_arguments() -> None:
    chosen = yaml.safe_load(CONFIG.read_text())["model"]["policy"]
    assert chosen["class_path"] == "RewardForcing"
    made = Rolls(RewardForcing(**chosen["init_args"]), blocks=6).blocks_of()
    assert all(finite(latents) for latents in made)
