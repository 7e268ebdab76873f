"""Videos that start from a picture or another video, and prompts that follow each other in time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rollforge.data.world import Scene, render
from rollforge.pipeline import video_rollout as take
from rollforge.video.reader import frames
from rollforge.video.writer import VideoWriter

BALL, BOX = "a red ball over snow at day", "a blue box over sand at night"


@pytest.fixture
def pixels(tiny: Any) -> Callable[..., Any]:
    """Runs predict with more config and reads the video as uint8 ``[T, 64, 64, 3]``."""

    def run(**data: Any) -> np.ndarray:
        tiny.config["model"]["codec"]["init_args"] = {"weights": "pocket"}
        tiny.config["data"] |= data
        shutil.rmtree(tiny.out, ignore_errors=True)
        assert tiny.run("predict") == 0
        name, *_ = tiny.videos()
        return np.stack(list(frames(tiny.out / name)))

    return run


def test_a_video_starts_with_the_picture_it_was_given(tiny: Any, pixels: Any) -> None:
    picture = render(Scene.parse(BALL), 3, 1)[0][0]
    Image.fromarray(picture).save(tiny.folder / "start.png")
    made = pixels(prompts=[BALL], seconds=1, opening=str(tiny.folder / "start.png"))
    assert len(made) == 8
    assert np.abs(made[0].astype(int) - picture).mean() < 6


def test_an_opening_that_no_block_of_the_training_had_is_said_once(
    tiny: Any, pixels: Any, caplog: pytest.LogCaptureFixture
) -> None:
    take._warn.cache_clear()
    Image.fromarray(render(Scene.parse(BALL), 3, 1)[0][0]).save(tiny.folder / "start.png")
    pixels(prompts=[BALL, BOX], seconds=1, opening=str(tiny.folder / "start.png"))
    (warning,) = [record.getMessage() for record in caplog.records if "opening" in record.getMessage()]
    assert warning.startswith("The opening has 1 latent frame, and this model makes blocks of 3: ")


def test_a_video_goes_on_from_the_end_of_another(tiny: Any, pixels: Any) -> None:
    clip = render(Scene.parse(BOX), 1, 40)[0]
    with VideoWriter(tiny.folder / "clip.mp4", (64, 64), 8, crf=0) as writer:
        writer.write(clip)
    opening = str(tiny.folder / "clip.mp4")
    made = pixels(prompts=[BOX], seconds=1.5, opening=opening, opening_seconds=0.75)
    assert len(made) == 12
    assert np.abs(made[:6].astype(int) - clip[-6:]).mean() < 6
    other = pixels(prompts=[BALL], seconds=1.5, opening=opening, opening_seconds=0.75)
    assert np.abs(other[:6].astype(int) - clip[-6:]).mean() < 6
    assert not np.array_equal(made[6:], other[6:])


@pytest.mark.parametrize("policy", ["RollingSink", "LongLive"])
def test_prompts_follow_each_other(tiny: Any, pixels: Any, policy: str) -> None:
    tiny.config["model"]["policy"] = {"class_path": policy}
    alone = pixels(prompts=[BALL], seconds=3)
    switched = pixels(prompts=[[{"prompt": BALL}, {"at": "1.5s", "prompt": BOX}]], seconds=3)
    assert np.array_equal(switched[:12], alone[:12])
    assert not np.array_equal(switched[12:], alone[12:])
    (video,) = json.loads((tiny.out / "manifest.json").read_text())["videos"]
    assert video["prompt"] == f"{BALL} | {BOX}"


def test_guidance_leads_away_from_the_negative_prompt(tiny: Any, pixels: Any) -> None:
    tiny.config["model"]["sampler"]["init_args"] = {"steps": 2, "guidance": 3.0}
    plain = pixels(prompts=[BALL], seconds=0.75)
    tiny.config["model"]["negative_prompt"] = BOX
    assert not np.array_equal(plain, pixels(prompts=[BALL], seconds=0.75))


def test_an_opening_longer_than_the_video_is_said(tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with VideoWriter(tiny.folder / "clip.mp4", (64, 64), 8, crf=0) as writer:
        writer.write(render(Scene.parse(BOX), 1, 20)[0])
    tiny.config["data"] |= {"opening": str(tiny.folder / "clip.mp4"), "opening_seconds": 2, "seconds": 1}
    assert tiny.run("predict") == 2
    assert "rollforge: 16 given frames for a video of 8" in capsys.readouterr().err
    assert tiny.videos() == []
