"""The procedural world: what can be said about it, and that what is drawn is what was said."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rollforge.data.clips import WorldClips
from rollforge.data.world import (
    FAR,
    SHAPES,
    SIZE,
    SKY_TINT,
    SOIL_TINT,
    WORDS,
    Scene,
    all_scenes,
    background,
    held_out,
    render,
    sprite,
)
from rollforge.data.world.grammar import COLOURS
from rollforge.data.world.render import PATCH, RADIUS, SPEED, _path
from rollforge.errors import UserError

scenes = st.sampled_from(all_scenes())
seeds = st.integers(0, 2**31 - 1)
TWO = Scene.parse("a red box and a green cone over snow at day")


def test_every_caption_reads_back_as_its_scene() -> None:
    captions = [scene.caption for scene in all_scenes()]
    assert len(set(captions)) == len(captions)
    assert [Scene.parse(caption) for caption in captions] == list(all_scenes())


def test_captions_are_sentences() -> None:
    assert TWO.things == (("red", "box"), ("green", "cone"))
    assert (TWO.ground, TWO.time) == ("snow", "day")
    assert TWO.caption == "a red box and a green cone over snow at day"
    assert Scene((("blue", "ball"),), "sand", "night").caption == "a blue ball over sand at night"


def test_capitals_articles_and_stops_do_not_matter() -> None:
    assert Scene.parse("The Red box and the green cone, over snow at day.") == TWO


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a rad ball over grass at day", "'rad' is not a colour (did you mean 'red'?)"),
        ("a red bal over grass at day", "'bal' is not a shape (did you mean 'ball'?)"),
        ("a red ball over gras at day", "'gras' is not a ground (did you mean 'grass'?)"),
        ("a red ball over grass at nihgt", "'nihgt' is not a time (did you mean 'night'?)"),
        ("a red ball over grass at", "'nothing' is not a time;"),
        ("a red xyzzyx over grass at day", "'xyzzyx' is not a shape;"),
        ("a small red ball over grass at day", "'small red ball' is not a colour and a shape"),
        ("a red ball and over grass at day", "'nothing' is not a colour and a shape"),
        ("a red ball and a red box over grass at day", "two of different colours"),
        ("a red ball and a blue box and a green cone over grass at day", "one thing or two"),
        ("a red ball at day over grass", "form of a caption"),
        ("a red ball over grass over sand", "form of a caption"),
        ("", "'nothing' is not a colour and a shape"),
        ("a red ball over", "'nothing' is not a ground"),
    ],
)
def test_a_wrong_caption_gets_the_reason_and_every_word(text: str, why: str) -> None:
    with pytest.raises(UserError) as error:
        Scene.parse(text)
    message = str(error.value)
    assert why in message
    assert "\n" not in message
    assert ". " not in message  # one sentence
    for words in WORDS.values():
        assert ", ".join(words) in message


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([*sum(WORDS.values(), ()), "a", "and", "over", "at", "pink"]), max_size=10).map(" ".join)
)
def test_any_words_are_a_scene_or_a_clear_error(text: str) -> None:
    with suppress(UserError):
        scene = Scene.parse(text)
        assert any(agrees(scene, whole) for whole in all_scenes())


def agrees(scene: Scene, whole: Scene) -> bool:
    """Whether all that a caption says is so in a scene."""
    if len(scene.things) != len(whole.things):
        return False
    pairs = [(scene.ground, whole.ground), (scene.time, whole.time)]
    pairs += [
        pair for thing, other in zip(scene.things, whole.things, strict=True) for pair in zip(thing, other, strict=True)
    ]
    return all(word in ("", true) for word, true in pairs)


@given(scenes, st.integers(0, 99))
def test_a_hushed_caption_says_less_and_reads_back(scene: Scene, seed: int) -> None:
    hushed = scene.hushed(np.random.default_rng(seed))
    assert Scene.parse(hushed.caption) == hushed
    assert agrees(hushed, scene)
    assert hushed.complete == (hushed == scene)
    assert [shape for _, shape in hushed.things] == [shape for _, shape in scene.things]


def test_any_word_may_be_left_unsaid() -> None:
    assert Scene.parse("a ball") == Scene((("", "ball"),), "", "")
    assert Scene.parse("a box and a red cone at dusk") == Scene((("", "box"), ("red", "cone")), "", "dusk")
    captions = {TWO.hushed(np.random.default_rng(seed)) for seed in range(300)}
    assert len(captions) == 16  # every choice of two colours, the ground and the time
    assert not Scene.parse("a ball over sand").complete


def test_clips_leave_words_out_of_as_many_captions_as_they_are_told() -> None:
    for share in (0.0, 0.5, 1.0):
        captions = [WorldClips(frames=1, hushed=share)[n]["caption"] for n in range(200)]
        whole = sum(Scene.parse(caption).complete for caption in captions) / 200
        assert abs(whole - (1 - share + share * 0.1)) < 0.1  # a toss may leave nothing out
    assert torch.equal(WorldClips(hushed=1.0)[3]["video"], WorldClips()[3]["video"])
    with pytest.raises(UserError, match="from 0 to 1, not 2"):
        WorldClips(hushed=2)


def test_one_in_ten_captions_is_held_out_with_one_thing_and_with_two() -> None:
    for things in (1, 2):
        scenes = [scene for scene in all_scenes() if len(scene.things) == things]
        assert 0.06 < sum(map(held_out, scenes)) / len(scenes) < 0.14
    assert sum(map(held_out, all_scenes())) >= 32


def test_held_out_captions_never_change() -> None:
    captions = [scene.caption for scene in all_scenes() if held_out(scene)]
    assert len(captions) == 158
    assert captions[0] == "a red ball over grass at day"
    assert captions[-1] == "a purple cone and a blue cone over snow at day"


@pytest.mark.parametrize("things", [1, 2])
def test_training_sees_every_word_and_every_thing(things: int) -> None:
    seen = [scene for scene in all_scenes() if not held_out(scene) and len(scene.things) == things]
    assert {scene.ground for scene in seen} == set(WORDS["ground"])
    assert {scene.time for scene in seen} == set(WORDS["time"])
    for place in range(things):
        assert {scene.things[place] for scene in seen} == {(colour, shape) for colour in COLOURS for shape in SHAPES}


@settings(max_examples=10, deadline=None)
@given(scenes, seeds, st.integers(1, 9), st.integers(0, 9))
def test_the_same_seed_draws_the_same_clip_whatever_its_length(scene: Scene, seed: int, frames: int, more: int) -> None:
    video, truth = render(scene, seed, frames)
    longer, longer_truth = render(scene, seed, frames + more)
    assert video.shape == (frames, SIZE, SIZE, 3)
    assert video.dtype == np.uint8
    assert np.array_equal(video, longer[:frames])
    assert np.array_equal(truth.centres, longer_truth.centres[:frames])
    assert np.array_equal(truth.background, longer_truth.background)


def test_another_seed_draws_another_clip_of_a_like_landscape() -> None:
    (one, truth), (two, other) = render(TWO, 0, 2, tinted=False), render(TWO, 1, 2, tinted=False)
    assert not np.array_equal(one, two)
    assert 0 < np.abs(truth.background - other.background).mean() < 0.05


@pytest.mark.parametrize("time", WORDS["time"])
def test_tints_change_sky_and_soil_and_nothing_else(time: str) -> None:
    scene, named = replace(TWO, time=time), 0
    for seed in range(8):
        (_, plain), (_, tinted) = render(scene, seed, 2, tinted=False), render(scene, seed, 2)
        assert np.array_equal(plain.centres, tinted.centres)
        added = tinted.background - plain.background
        clear = (tinted.background > 0) & (tinted.background < 1)
        for rows, most in ((slice(0, 1), SKY_TINT), (slice(60, SIZE), SOIL_TINT / FAR)):
            there = added[rows][clear[rows].all(axis=2)]
            if len(there):  # not clipped
                named += 1
                assert np.ptp(there, axis=0).max() < 1e-5  # the same everywhere
                assert np.linalg.norm(there[0]) < most + 1e-5
                assert np.linalg.norm(there[0]) > 0.29 * most
                assert abs(there[0].sum()) < 1e-5
    assert named >= 5


def test_clips_are_tinted_unless_told_otherwise() -> None:
    plain, tinted = WorldClips(tinted=False)[3], WorldClips()[3]
    assert plain["caption"] == tinted["caption"]
    assert (plain["video"] != tinted["video"]).any(dim=3).float().mean() > 0.5


@settings(max_examples=20, deadline=None)
@given(scenes, seeds)
def test_a_clip_is_its_landscape_with_its_things_the_nearer_last(scene: Scene, seed: int) -> None:
    video, truth = render(scene, seed, 3)
    assert np.array_equal(truth.background, background(scene, np.random.default_rng(seed)))
    drawn = np.repeat(truth.background[None], 3, axis=0)
    for n in reversed(range(len(scene.things))):
        colours, cover = sprite(*scene.things[n], truth.centres[:, n])
        drawn += cover[..., None] * (colours - drawn)
    assert np.array_equal(video, (drawn * 255).round().astype(np.uint8))


@settings(deadline=None)
@given(seeds)
def test_things_stay_in_frame_and_keep_moving_for_ever(seed: int) -> None:
    path = _path(np.random.default_rng(seed), 5001)
    assert path.shape == (5001, 2)
    assert path.min() >= RADIUS
    assert path.max() <= SIZE - RADIUS
    steps = np.linalg.norm(np.diff(path, axis=0), axis=-1)
    assert steps.max() < SPEED[1] + 1e-3
    assert (steps > SPEED[0] - 1e-3).mean() > 0.9  # the rest bounce


@pytest.mark.parametrize("shape", SHAPES)
def test_a_thing_is_whole_at_the_walls_and_fits_its_patch(shape: str) -> None:
    middle, low, high = SIZE / 2, RADIUS, SIZE - RADIUS
    centres = np.array([(middle, middle), (low, low), (high, high), (low, high), (high, low)], np.float32)
    colours, cover = sprite("red", shape, centres)
    areas = cover.sum(axis=(1, 2))
    assert areas[0] > 150
    assert np.abs(areas / areas[0] - 1).max() < 0.01
    assert cover[0].any(axis=0).sum() <= PATCH
    assert colours.min() >= 0
    assert colours.max() <= 1


@pytest.mark.parametrize("time", WORDS["time"])
@pytest.mark.parametrize("ground", WORDS["ground"])
def test_no_colour_vanishes_against_a_landscape(ground: str, time: str) -> None:
    scene = Scene((("red", "ball"),), ground, time)
    plain, tinted = (
        np.stack([background(scene, np.random.default_rng(seed), tint) for seed in range(16)]) for tint in (False, True)
    )
    centre = np.array([[SIZE / 2, SIZE / 2]], np.float32)
    for colour in COLOURS:
        for shape in SHAPES:
            colours, cover = sprite(colour, shape, centre)
            mean = colours[0][cover[0] > 0.99].mean(axis=0)
            assert np.abs(mean - plain).max(axis=3).min() > 0.12, (colour, shape)
            assert (np.abs(mean - tinted).max(axis=3) < 0.12).mean() < 0.1, (colour, shape)  # some rows, in some scenes
