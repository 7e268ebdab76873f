"""Several seeds of each prompt, and the first so many prompts of a file."""

from __future__ import annotations

import pytest

from rollforge.data.video_requests import batches, make_requests
from rollforge.errors import UserError

PROMPTS = ["a cat", "a dog", "a bird"]


def test_each_seed_makes_a_video_of_every_prompt_that_is_used() -> None:
    requests = make_requests(PROMPTS, 1.0, 4.0, seed=5, seeds=2, first_prompts=2)
    found = [(each.prompt, each.seed, each.sample) for each in requests]
    assert found == [("a cat", 5, 0), ("a dog", 5, 1), ("a cat", 6, 2), ("a dog", 6, 3)]
    assert requests[:2] == make_requests(PROMPTS[:2], 1.0, 4.0, seed=5)
    assert [[each.seed for each in group] for group in batches(requests, 8)] == [[5, 5], [6, 6]]


def test_a_suite_that_is_too_short_is_refused() -> None:
    with pytest.raises(UserError, match=r"first_prompts is 4, and data\.prompts holds 3"):
        make_requests(PROMPTS, 1.0, 4.0, first_prompts=4)
