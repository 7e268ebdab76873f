"""Captions as four fixed tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rollforge.backbones.pocket.text import PocketText
from rollforge.data.world import WORDS, Scene, all_scenes
from rollforge.errors import UserError

scenes = st.sampled_from(all_scenes())
TWO = "a red box and a green cone over snow at day"


def features(caption: str) -> torch.Tensor:
    return PocketText()([caption]).embeds[0]


def test_different_scenes_have_different_features() -> None:
    embeds = PocketText()([scene.caption for scene in all_scenes()]).embeds
    assert embeds.shape == (len(all_scenes()), 4, 64)
    assert len(embeds.flatten(1).unique(dim=0)) == len(embeds)


def test_nothing_is_learned() -> None:
    assert not list(PocketText().parameters())
    assert torch.equal(features(TWO), features(TWO))


@given(scenes)
def test_each_thing_ground_and_time_has_its_own_token(scene: Scene) -> None:
    whole = features(scene.caption)
    assert whole[0].count_nonzero() == 3  # the place, the colour, the shape
    other = next(word for word in WORDS["ground"] if word != scene.ground)
    changed = (features(Scene(scene.things, other, scene.time).caption) != whole).any(dim=1)
    assert changed.tolist() == [False, False, True, False]
    colour = next(word for word in WORDS["colour"] if all(word != used for used, _ in scene.things))
    nearer = ((colour, scene.things[0][1]), *scene.things[1:])
    changed = (features(Scene(nearer, scene.ground, scene.time).caption) != whole).any(dim=1)
    assert changed.tolist() == [True, False, False, False]


def test_the_empty_prompt_is_all_zeros_and_differs_from_every_caption() -> None:
    assert not features("").any()
    assert not features("  ").any()
    assert all(features(scene.caption).any() for scene in all_scenes())


def test_what_is_unsaid_is_zero_and_nothing_else_changes() -> None:
    whole, hushed = features(TWO), features("a box and a green cone at day")
    assert (hushed != whole).sum() == 2  # the colour of the box, and the snow
    assert not (hushed[hushed != whole]).any()
    assert hushed[2].count_nonzero() == 1  # its place


def test_rows_do_not_depend_on_their_neighbours() -> None:
    both = PocketText()([TWO, "a blue ball over sand at night"]).embeds
    assert torch.equal(both[0], features(TWO))


def test_equal_ids_mean_equal_prompts() -> None:
    text = PocketText()
    assert text([TWO]).id == text([TWO]).id
    batches = [[TWO], ["", TWO], ["\n" + TWO], [TWO, ""], [""], ["", ""], [TWO, TWO]]
    assert len({text(batch).id for batch in batches}) == len(batches)


def test_what_the_world_cannot_show_is_an_error_with_the_words() -> None:
    with pytest.raises(UserError, match=r"'pink' is not a colour.*red, yellow"):
        PocketText()([TWO, "a pink ball over sand at day"])
    with pytest.raises(UserError, match="did you mean 'cone'"):
        PocketText().check(["a red con over sand at day"])
    PocketText().check([TWO, ""])
