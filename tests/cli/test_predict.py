"""``rollforge predict``: what it leaves behind, and what happens when it is run again or killed."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from rollforge.cli import main
from rollforge.errors import UserError
from rollforge.evaluation.video_folder import VideoFolder
from rollforge.video.reader import frames, probe

RED = "a red ball over snow at day"
TWO = "a green cone and a blue box over sand at night"
FRAMES = 24  # 3 seconds at 8 frames a second, one pixel frame for each latent frame

ErrorLine = Callable[[int], str]


def decoded(path: Path) -> NDArray[np.uint8]:
    return np.stack(list(frames(path)))


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    shown = (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in shown}


def pictures(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {name: kept for name, kept in state(folder).items() if name.endswith((".mp4", ".png"))}


def manifest(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return read


@pytest.fixture
def compared(tiny: Any) -> Any:
    """The tiny config with Window next to RollingSink."""
    tiny.config["model"]["compare_policy"] = {"class_path": "Window", "init_args": {"context_blocks": 2}}
    return tiny


def test_two_policies_leave_videos_a_sheet_a_manifest_and_the_config(
    compared: Any, capsys: pytest.CaptureFixture[str], enlarged: None
) -> None:
    assert compared.run("predict") == 0
    name = "000-a-red-ball-over-snow-at-day"
    videos = [f"{name}.RollingSink.mp4", f"{name}.Window.mp4"]
    made = state(compared.out).keys()
    assert made == {*videos, f"{name}.side-by-side.mp4", f"{name}.png", "manifest.json", "config.yaml"}
    assert [file.name for file in VideoFolder(compared.out).files] == videos  # `test` measures these two alone
    for video in videos:
        info = probe(compared.out / video)
        assert (info.frames, info.fps, info.width, info.height) == (FRAMES, 8, 384, 384)
    both = probe(compared.out / f"{name}.side-by-side.mp4")
    assert both.frames == FRAMES
    assert both.width > 2 * 384
    with Image.open(compared.out / f"{name}.png") as sheet:
        assert min(sheet.size) > 100
    printed = capsys.readouterr().out
    for video in made - {"manifest.json", "config.yaml"}:
        assert video in printed
    assert "rollforge predict" in printed

    kept = manifest(compared.out)
    assert kept["complete"] is True
    assert [entry["file"] for entry in kept["videos"]] == videos
    for entry, policy in zip(kept["videos"], ("RollingSink", "Window"), strict=True):
        assert entry["complete"] is True
        assert (entry["prompt"], entry["seed"], entry["sample"], entry["policy"]) == (RED, 0, 0, policy)
        assert (entry["latent_frames"], entry["frames"], entry["seconds"]) == (FRAMES, FRAMES, 3)
        assert (entry["fps"], entry["size"]) == (8, [384, 384])
        assert entry["wall_seconds"] >= entry["first_block_seconds"] > 0

    resolved = yaml.safe_load((compared.out / "config.yaml").read_text())
    assert resolved["model"]["policy"]["init_args"] == {"context_blocks": 2, "sink_blocks": 1}
    assert resolved["model"]["backbone"]["init_args"]["block"] == 3  # defaults are written out too


def test_the_two_policies_agree_until_the_wave_turns_and_not_after(compared: Any) -> None:
    compared.run("predict")
    rolling, window = (decoded(next(compared.out.glob(f"*.{policy}.mp4"))) for policy in ("RollingSink", "Window"))
    assert np.array_equal(rolling[:9], window[:9])  # blocks 0 to 2 see the same context
    assert not np.array_equal(rolling[9:], window[9:])


def test_two_policies_of_one_class_make_two_videos(compared: Any) -> None:
    compared.config["model"]["compare_policy"] = {
        "class_path": "RollingSink",
        "init_args": {"context_blocks": 2, "sink_blocks": 2},
    }
    assert compared.run("predict") == 0
    one, other = (decoded(next(compared.out.glob(f"*.{name}.mp4"))) for name in ("RollingSink", "RollingSink-compared"))
    assert not np.array_equal(one, other)


def test_running_again_makes_only_what_is_missing(compared: Any) -> None:
    compared.run("predict")
    lost, kept = (next(compared.out.glob(f"*.{policy}.mp4")) for policy in ("Window", "RollingSink"))
    before, pictures = state(compared.out), decoded(lost)
    lost.unlink()
    assert compared.run("predict") == 0
    assert state(compared.out)[kept.name] == before[kept.name]
    assert np.array_equal(decoded(lost), pictures)
    assert manifest(compared.out)["complete"] is True


def test_the_resolved_config_makes_the_same_video(tiny: Any) -> None:
    tiny.run("predict")
    (video,) = tiny.videos()
    again = tiny.folder / "again"
    assert main(["predict", "--config", str(tiny.out / "config.yaml"), "--output_dir", str(again)]) == 0
    assert np.array_equal(decoded(again / video), decoded(tiny.out / video))


@pytest.mark.parametrize(
    "other",
    [
        ("--model.policy.init_args.sink_blocks", "2"),  # another model
        ("--data.seed", "1"),  # another noise
        ("--data.seconds", "4"),  # another length
    ],
)
def test_another_config_into_the_same_folder_is_refused(
    tiny: Any, error_line: ErrorLine, capsys: pytest.CaptureFixture[str], other: tuple[str, str]
) -> None:
    tiny.run("predict")
    capsys.readouterr()  # the first run's progress
    before, entries = pictures(tiny.out), manifest(tiny.out)["videos"]
    message = error_line(tiny.run("predict", *other))
    assert str(tiny.out) in message
    assert "another --output_dir" in message
    assert pictures(tiny.out) == before
    assert manifest(tiny.out)["videos"] == entries


def test_overwrite_makes_finished_videos_again(tiny: Any) -> None:
    tiny.run("predict")
    (video,) = tiny.videos()
    before = decoded(tiny.out / video)
    assert tiny.run("predict", "--data.seed", "1", "--overwrite", "true") == 0
    assert tiny.videos() == [video]
    assert not np.array_equal(decoded(tiny.out / video), before)
    assert manifest(tiny.out)["videos"][0]["seed"] == 1


def test_prompts_from_the_command_line_a_file_and_a_folder_make_the_same_videos(tiny: Any) -> None:
    tiny.config["data"] = {"seconds": 1}
    file, folder = tiny.folder / "prompts.txt", tiny.folder / "prompts"
    file.write_text(f"{RED}\n\n{TWO}\n")
    folder.mkdir()
    for name, prompt in (("1", RED), ("2", TWO)):
        (folder / f"{name}.txt").write_text(prompt)
    made = []
    for prompts in (f"['{RED}', '{TWO}']", str(file), str(folder)):
        shutil.rmtree(tiny.out, ignore_errors=True)
        assert tiny.run("predict", "--data.prompts", prompts) == 0
        made.append([(name, decoded(tiny.out / name)) for name in tiny.videos()])
    assert [len(videos) for videos in made] == [2, 2, 2]
    for videos in made[1:]:
        for (name, pictures), (first_name, first) in zip(videos, made[0], strict=True):
            assert name == first_name
            assert np.array_equal(pictures, first)


def test_one_prompt_on_the_command_line_is_one_video(tiny: Any) -> None:
    assert tiny.run("predict", "--data.prompts", TWO, "--data.seconds", "1") == 0
    assert tiny.videos() == ["000-a-green-cone-and-a-blue-box-over-sand-at-night.mp4"]


def test_a_video_does_not_depend_on_the_batch_it_was_in(tiny: Any) -> None:
    tiny.config["data"] = {"prompts": [RED, TWO], "seconds": 1}
    tiny.run("predict")
    alone = [decoded(tiny.out / name) for name in tiny.videos()]
    assert tiny.run("predict", "--data.rollout_batch_size", "2", "--overwrite", "true") == 0
    for name, pictures in zip(tiny.videos(), alone, strict=True):
        assert np.abs(decoded(tiny.out / name).astype(int) - pictures).mean() < 0.5  # sums are rounded otherwise


def test_prompts_that_switch_at_other_times_do_not_change_the_videos_beside_them(tiny: Any) -> None:
    tiny.config["model"]["policy"] = {"class_path": "LongLive", "init_args": {"context_blocks": 2, "sink_blocks": 1}}
    timed = [[{"prompt": RED}, {"at": at, "prompt": TWO}] for at in ("1s", "2s")]
    tiny.config["data"] = {"prompts": [*timed, RED, timed[0]], "seconds": 3}
    tiny.run("predict")
    alone = [decoded(tiny.out / name) for name in tiny.videos()]
    assert tiny.run("predict", "--data.rollout_batch_size", "4", "--overwrite", "true") == 0
    for name, pictures in zip(tiny.videos(), alone, strict=True):
        assert np.abs(decoded(tiny.out / name).astype(int) - pictures).mean() < 0.5
    together = [video["rolled_together"] for video in json.loads((tiny.out / "manifest.json").read_text())["videos"]]
    assert together == [2, 1, 1, 2]


def test_a_finished_video_is_not_taken_for_one_with_other_times_or_another_opening(
    tiny: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(code: int) -> None:
        assert code == 2
        assert "is not the video asked for now" in capsys.readouterr().err

    timed = [{"prompt": RED}, {"at": "1s", "prompt": TWO}]
    tiny.config["data"] = {"prompts": [timed], "seconds": 2}
    assert tiny.run("predict") == 0
    assert tiny.run("predict") == 0
    timed[1]["at"] = "1.5s"
    refused(tiny.run("predict"))
    assert tiny.run("predict", "--overwrite", "true") == 0

    Image.new("RGB", (64, 64), (200, 30, 30)).save(tiny.folder / "start.png")
    opened = ["--data.opening", str(tiny.folder / "start.png")]
    refused(tiny.run("predict", *opened))
    assert tiny.run("predict", *opened, "--overwrite", "true") == 0
    refused(tiny.run("predict"))
    assert tiny.run("predict", *opened) == 0
    Image.new("RGB", (64, 64), (30, 200, 30)).save(tiny.folder / "start.png")
    refused(tiny.run("predict", *opened))


@pytest.mark.parametrize(
    "what", ["rollforge.report.video_recorder.write_sealed", "rollforge.lightning.video_output.save"]
)
def test_after_a_full_disk_the_contact_sheet_is_the_same(tiny: Any, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    def full(*arguments: Any) -> None:
        raise UserError("No space left on device")

    tiny.config["snapshots"] = {"every_blocks": 2}
    assert tiny.run("predict") == 0
    whole = pictures(tiny.out)
    shutil.rmtree(tiny.out)
    with monkeypatch.context() as patch:
        patch.setattr(what, full)
        assert tiny.run("predict") == 2
    assert not list(tiny.out.glob("*.png"))
    assert tiny.run("predict", "--resume") == 0
    assert {name: kept for name, (_, kept) in pictures(tiny.out).items()} == {
        name: kept for name, (_, kept) in whole.items()
    }


def test_another_class_starts_with_its_own_defaults(tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    other = tiny.folder / "other.yaml"
    other.write_text("model: {policy: Window}\n")

    def policy(*more: str) -> Any:
        with pytest.raises(SystemExit):
            tiny.run("predict", *more, "--print_config")
        return yaml.safe_load(capsys.readouterr().out)["model"]["policy"]["init_args"]

    assert policy() == {"context_blocks": 2, "sink_blocks": 1}
    assert policy("--model.policy", "Window") == policy("--config", str(other)) == {"context_blocks": 6}
    assert policy("--model.policy", "AttentionSink") == {"context_blocks": 6, "sink_blocks": 5}
    assert policy("--model.policy", "RollingSink") == {"context_blocks": 2, "sink_blocks": 1}  # the class that it was
    refined = ["--model.policy", "Window", "--model.policy.init_args.context_blocks", "3"]
    assert policy(*refined) == {"context_blocks": 3}
    assert policy("--model.policy", '{"class_path": "Window", "init_args": {"context_blocks": 4}}') == {
        "context_blocks": 4
    }


def test_the_same_seed_starts_a_longer_video_the_same_way(tiny: Any) -> None:
    tiny.run("predict", "--data.seconds", "1.5")
    short = decoded(tiny.out / tiny.videos()[0])
    tiny.run("predict", "--data.seconds", "3", "--overwrite", "true")
    assert np.array_equal(decoded(tiny.out / tiny.videos()[0])[: len(short)], short)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_leaves_nothing_that_looks_finished_and_can_go_on(tiny: Any, kind: signal.Signals) -> None:
    running = tiny.start("predict", "--data.seconds", "100000")
    deadline = time.monotonic() + 300
    while not any(path.stat().st_size > 10_000 for path in tiny.out.glob("*.partial.mp4")):
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(kind)
    _, stderr = running.communicate(timeout=120)
    assert running.returncode == (130 if kind == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in stderr
    assert tiny.videos() == []
    assert not list(tiny.out.glob("*.png"))
    kept = manifest(tiny.out)
    assert kept["complete"] is False
    assert [entry["complete"] for entry in kept["videos"]] == [False]

    assert tiny.run("predict", "--overwrite", "true") == 0
    (video,) = tiny.videos()
    assert probe(tiny.out / video).frames == FRAMES
    assert manifest(tiny.out)["complete"] is True
    assert not list(tiny.out.glob("*.partial*"))


@pytest.mark.parametrize("command", ["predict", "test"])
def test_an_opening_that_cannot_be_read_is_named_and_the_other_videos_are_made(
    command: str, tiny: Any, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    openings = tiny.folder / "openings"
    openings.mkdir()
    for name in ("1.png", "2.png", "10.png"):
        Image.new("RGB", (64, 64), (90, 90, 90)).save(openings / name)
    (openings / "2.png").write_bytes(b"\x89PNG nothing more")
    tiny.config["data"] |= {"prompts": [RED, TWO, RED], "opening": str(openings), "seconds": 1.5}
    assert tiny.run(command) == 1
    assert caplog.text.count("2.png cannot be read") == 1
    manifest = json.loads((tiny.out / "manifest.json").read_text())
    assert [(video["sample"], video["complete"]) for video in manifest["videos"]] == [(0, True), (2, True)]
    for name in ("1.png", "10.png"):
        (openings / name).write_bytes(b"\x89PNG nothing more")
    capsys.readouterr()
    assert tiny.run(command, "--overwrite", "true") == 2
    assert "Nor can the other 2 openings be read." in capsys.readouterr().err
