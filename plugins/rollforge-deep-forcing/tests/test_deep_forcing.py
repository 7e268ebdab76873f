"""Deep Forcing: frames by number, tokens by brute force, resuming, batches, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from brute import check_rollout
from rollforge_deep_forcing import DeepForcing
from rollforge_deep_forcing.selection import scores, top
from token_lists import TokenLists
from toy_backbone import BLOCK, TOKENS, Toy, condition

from rollforge.errors import UserError
from rollforge.positions import Rope
from rollforge.rollout import Rollout
from rollforge.samplers import FewStep
from rollforge.spec import Step
from rollforge.testing import check_plans, check_policy, check_resume
from rollforge.testing.tiny import Rolls

SMALL = {"window": 10, "budget": 6, "sink": 2, "recent": 2, "queries": 3}


@pytest.mark.parametrize(("block", "often"), [(3, 3), (1, 5)])
def test_frames_of_a_thousand_blocks_equal_a_simulation(block: int, often: int) -> None:
    """A window of 21 is full at frame 21; five frames of space last for one block of three, or five of one."""

    def expected(step: Step) -> tuple[list[tuple[int, int]], int]:
        s = step.start
        if s + block <= 21:
            return [(frame, frame) for frame in range(s)], s
        tail = 17 + (s - 21) // often * often
        sink = [(frame, tail - 12 + frame) for frame in range(10)]
        return [*sink, (-1, tail - 2), (-2, tail - 1), *((frame, frame) for frame in range(tail, s))], s

    check_plans(DeepForcing(), expected, block=block)


@pytest.mark.parametrize("kv_heads", [2, 1])
def test_a_rollout_equals_lists_of_tokens_alone_in_a_batch_and_resumed(kv_heads: int) -> None:
    toy = Toy(kv_heads, positions=Rope())
    toy.spec = replace(toy.spec, kv_heads=kv_heads)
    rollout = Rollout(toy, DeepForcing(**SMALL), FewStep((1000, 500), shift=1.0, context_noise=20.0))
    sizes = {"asking" if name == "queries" else name: size for name, size in SMALL.items()}
    lists = TokenLists(TOKENS, BLOCK, **sizes)
    check_rollout(rollout, condition, lists, 20)
    assert lists.compressions == 3 * 4  # before frames 10, 14 and 18, of two layers and two samples
    assert lists.mixed > 0  # or tokens that leave their place would not be noticed


def test_scores_are_sums_over_queries_and_heads() -> None:
    queries, keys = torch.randn(2, 3, 4, 5), torch.randn(2, 6, 2, 5)
    by_hand = [
        [sum(float(queries[b, f, h] @ keys[b, n, h // 2]) for f in range(3) for h in range(4)) for n in range(6)]
        for b in range(2)
    ]
    torch.testing.assert_close(scores(queries, keys), torch.tensor(by_hand))
    assert top(torch.tensor([[3.0, 9.0, -1.0, 4.0]]), 2).tolist() == [[1, 3]]


def test_the_policy_passes_the_kit() -> None:
    check_policy(DeepForcing(window=9, budget=5, sink=2, recent=2), blocks=50)


def test_a_rollout_that_is_cut_off_resumes_over_a_compression_and_a_switch() -> None:
    check_resume(DeepForcing(window=9, budget=6, sink=2, recent=2), blocks=6, switches=[4])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: DeepForcing(sink=0), "sink must be a whole number of 1 or more, not 0"),
        (lambda: DeepForcing(sink=12), "sink=12, recent=4 and budget=16; expected a budget of 17 or more"),
        (
            lambda: Rolls(DeepForcing(window=18)).start(),
            "budget=16 and window=18, .* block has 3 .* window to 19 or more",
        ),
        (
            lambda: Rolls(DeepForcing(), memory=lambda *parts: None).start(),
            "DeepForcing observes queries and keys, and the memory .* does not show them",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_block(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make()
