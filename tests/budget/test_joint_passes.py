"""The budget of samplers with several blocks in progress, and of policies that learn from the network."""

from __future__ import annotations

from typing import Any

from rollforge.backbones.pocket.codec import PocketCodec
from rollforge.backbones.pocket.network import Pocket
from rollforge.budget import budget_of, work_of
from rollforge.budget.frames import held
from rollforge.policies import CachePolicy, Window
from rollforge.samplers import FewStep
from rollforge.spec import ReadPlan, Reencode, Step


class Rolling(FewStep):
    in_flight = 5


def test_a_joint_pass_counts_with_all_of_its_frames() -> None:
    one, five = held(Window(2), 3, 60, 1, False, ()), held(Window(2), 3, 60, 1, False, (), joint=15)
    assert (one.view, five.view) == (6 + 3, 6 + 15)
    assert max(moment.passing for moment in five.moments) == 15
    assert {moment.passing for moment in five.moments} >= {3}  # commits are of one block
    assert max(moment.passing for moment in held(Window(2), 3, 9, 1, False, (), joint=15).moments) <= 15

    def needed(sampler: Any) -> dict[str, int]:
        network = Pocket(dim=32, layers=2, heads=2, ffn_dim=64, window=6, horizon=6)
        work = work_of(network, PocketCodec(width=16), sampler, {"p": Window(2)}, device="cpu", frames=60)
        return {line.name: line.size for line in budget_of(work, {}).lines}

    plain, joint = needed(FewStep()), needed(Rolling())
    assert joint["keys and values in view"] * 9 == plain["keys and values in view"] * 21
    assert joint["a forward pass"] > 3 * plain["a forward pass"]


class Learning(CachePolicy):
    """Plans by what it has observed, which nobody has shown it here."""

    observes, sees = (0,), ("k",)

    def __init__(self) -> None:
        self.scores: dict[int, float] = {}

    def plan(self, step: Step) -> ReadPlan:
        best = sorted(range(step.start), key=lambda frame: self.scores[frame])[:6]
        return ReadPlan.of(((frame, frame) for frame in best), step.start)

    def live(self, start: int, block: int) -> frozenset[int]:
        return frozenset(range(min(start, 6)))

    def visible(self, block: int) -> int:
        return 6


def test_a_policy_that_learns_is_expected_to_keep_what_it_may_read() -> None:
    learning = held(Learning(), 3, 60, 2, False, ())
    assert learning.view == 6 + 3
    assert learning.raw == learning.saved[0] == 6 + 3
    assert max(moment.raw for moment in learning.moments) == 2 * (6 + 3)


class Again(Window):
    """Reads its whole window again at every commit."""

    reencodes = True

    def on_commit(self, step: Step) -> Any:
        window = sorted(self.live(step.frames.stop, step.block))
        return [Reencode(window[0]), range(window[0], window[-1] + 1)]


def test_frames_that_are_read_again_at_a_commit_count() -> None:
    assert max(moment.passing for moment in held(Again(3), 3, 60, 1, False, ()).moments) == 9
    assert held(Again(3), 3, 60, 1, False, ()).view == 9 + 9


def test_all_keys_may_be_rotated_again_where_positions_depend_on_the_plan() -> None:
    fixed, moving = (held(Window(2), 3, 60, 1, all_raw, ()) for all_raw in (False, True))
    assert max(moment.turned for moment in fixed.moments) == 3  # the block that was committed last
    assert max(moment.turned for moment in moving.moments) == 6
