"""``predict --resume``: what it goes on from, what it refuses, and what it does not make twice."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rollforge.registry import builtins
from rollforge.snapshots import LatentStore

WEIGHTS = Path(builtins.__file__).parents[1] / "backbones" / "pocket" / "weights"
TWO = "a green cone and a blue box over sand at night"
DRIFT = "DriftSuite" if "DriftSuite" in Path(builtins.__file__).read_text() else "WorldTruth"
OLDER_TORCH = """
from rollforge.lightning import video_output
real = video_output.versions
video_output.versions = lambda *devices: real(*devices) | {"torch": "1.0"}
"""
KILLED_IN_THE_LAST_MOMENT = """
import os, signal
from rollforge.report.run import RunFolder
real = RunFolder.record
def record(self, entry):
    if not entry["complete"]:
        return real(self, entry)
    AFTER and real(self, entry)
    os.kill(os.getpid(), signal.SIGKILL)
RunFolder.record = record
"""
Whole = Callable[[Any], Any]


def refused(printed: str) -> str:
    """The sentence that a refusal consists of, whatever was warned of before."""
    (sentence,) = [line for line in printed.splitlines() if line.startswith("rollforge: ")]
    return sentence


def damage(path: Path, at: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * at)] ^= 1
    path.write_bytes(content)


def went_on(case: Any) -> bool:
    """Whether the last video of the manifest was resumed; only those have no first block."""
    return all(video["first_block_seconds"] is None for video in case.manifest()["videos"][-1:])


def test_of_a_damaged_snapshot_the_one_before_is_used_and_of_none_it_begins_anew_when_told(
    case: Any, whole: Whole
) -> None:
    case.killed_after(6)
    *rest, older, newest = case.snapshots()  # a third where it was killed before that was removed
    damage(newest)
    kept = shutil.copytree(case.out, case.folder / "kept")
    printed = case.run("--resume")
    assert str(newest) in printed
    assert "checksum" in printed
    assert case.digests() == whole(case).digests()
    assert went_on(case)

    shutil.rmtree(case.out)
    kept.rename(case.out)
    for path in (*rest, older):
        damage(path)
    sentence = refused(case.run("--resume", code=2))
    assert str(case.out / "snapshots") in sentence
    assert "--overwrite true" in sentence
    sentence = refused(case.run(code=2))  # without --resume
    assert "--resume" in sentence
    case.run("--overwrite", "true")
    assert not went_on(case)
    assert case.digests() == whole(case).digests()


def test_a_snapshot_whose_video_was_tampered_with_is_not_used(case: Any) -> None:
    case.killed_after(12)  # up to block 4 a snapshot has all frames, and needs no file
    damage(case.partial, 0.1)
    printed = case.run("--resume", code=2)
    assert "have changed since the snapshot" in printed
    assert "matches the files of the video" in refused(printed)


def test_other_weights_and_versions_are_refused_with_a_list_unless_forced(case: Any) -> None:
    file = case.folder.parent / "mine.safetensors"
    weights = load_file(WEIGHTS / "pocket.safetensors")
    save_file(weights, file)
    case.config["model"]["backbone"]["init_args"] = {"weights": str(file)}
    case.killed_after(4)
    save_file({name: value + 0.001 for name, value in weights.items()}, file)
    sentence = refused(case.run("--resume", code=2, before=OLDER_TORCH))
    assert "weights of backbone: " in sentence
    assert f"versions.torch: {torch.__version__} -> 1.0" in sentence
    assert "codec" not in sentence
    assert "--force" in sentence
    case.run("--resume", "--force", before=OLDER_TORCH)
    assert went_on(case)


def test_another_config_is_refused_with_a_list_unless_forced(case: Any) -> None:
    case.killed_after(4)
    other = "--model.policy.init_args.sink_blocks", "1"
    sentence = refused(case.run("--resume", *other, code=2))
    assert "model.policy.init_args.sink_blocks: 2 -> 1" in sentence
    assert "--force" in sentence
    case.run("--resume", "--force", *other)
    assert went_on(case)


@pytest.mark.parametrize(("one", "other"), [("save", "recompute"), ("recompute", "save")])
def test_what_is_kept_cannot_change_between_two_runs(case: Any, one: str, other: str) -> None:
    case.config["snapshots"]["kv"] = one
    case.killed_after(4)
    case.config["snapshots"]["kv"] = other
    printed = case.run("--resume", code=2)
    assert f"snapshots.kv: {one} -> {other}" in refused(printed)
    assert "cannot be used" not in printed


def test_ckpt_path_last_is_the_same_as_resume(case: Any, whole: Whole) -> None:
    case.killed_after(4)
    case.run("--ckpt_path", "last")
    assert went_on(case)
    assert case.digests() == whole(case).digests()


def test_finished_videos_are_not_made_again_and_what_rides_along_is_the_same(case: Any, whole: Whole) -> None:
    """Two prompts under two policies each; killed in the second video, and in the last."""
    case.config["model"]["compare_policy"] = {"class_path": "Window", "init_args": {"context_blocks": 2}}
    case.config["model"]["metrics"] = [{"class_path": DRIFT}]
    case.config["data"] |= {"prompts": [*case.config["data"]["prompts"], TWO], "seconds": 3}
    case.config["snapshots"]["latents"] = True
    videos: list[Path] = []
    for name in ("000-*.Window.mp4", "001-*.Window.mp4"):
        folder = name.removesuffix(".mp4")
        process = case.start("--resume")
        assert process.until(lambda folder=folder: [*case.out.glob(f"snapshots/{folder}/snapshot-000004.*tensors")])
        process.send(SIGKILL)
        process.wait()
        assert process.code == -SIGKILL, process.printed
        videos = list(case.out.glob("*Sink.mp4"))
    before = {path: path.stat().st_mtime_ns for path in videos}
    case.run("--resume")
    assert len(before) == 2
    assert all(path.stat().st_mtime_ns == kept for path, kept in before.items())
    reference = whole(case)
    assert case.digests() == reference.digests()
    assert len(case.digests()) == 6
    assert case.manifest()["complete"] is True
    for file in [*reference.out.glob("*.png"), *reference.out.glob("*.csv")]:
        assert (case.out / file.name).read_bytes() == file.read_bytes(), file.name
    assert len([*reference.out.glob("*.curves.csv")]) == 4
    timed = ("wall_seconds", "first_block_seconds", "steady_fps")
    for one, other in zip(case.manifest()["videos"], reference.manifest()["videos"], strict=True):
        assert {k: v for k, v in one.items() if k not in timed} == {k: v for k, v in other.items() if k not in timed}
    for folder in reference.out.glob("latents/*"):
        made, expected = (
            torch.cat([*LatentStore(path).read()], 1) for path in (case.out / "latents" / folder.name, folder)
        )
        assert torch.equal(made, expected)
        assert made.shape[1] == 24
    assert not (case.out / "snapshots").exists()


@pytest.mark.parametrize("noted", [False, True])
def test_a_kill_in_the_last_moment_is_mended(case: Any, whole: Whole, noted: bool) -> None:
    """The video has its final name, and the manifest has it or has it not."""
    case.config["model"]["metrics"] = [{"class_path": DRIFT}]
    case.config["data"]["seconds"] = 4.5
    process = case.start(before=KILLED_IN_THE_LAST_MOMENT.replace("AFTER", str(noted)))
    assert process.wait() == -SIGKILL, process.printed
    assert len(case.digests()) == 1
    assert case.manifest()["complete"] is noted
    assert case.number() > 0
    case.run("--resume")
    assert case.digests() == whole(case).digests()
    assert case.manifest()["complete"] is True
    names = {path.name for path in case.out.iterdir()}
    assert names == {path.name for path in whole(case).out.iterdir()}
    for file in whole(case).out.glob("*.csv"):
        assert (case.out / file.name).read_bytes() == file.read_bytes()


def test_a_run_that_overwrites_can_be_killed_and_resumed(case: Any, whole: Whole) -> None:
    short = "--data.seconds", "3", "--data.seed", "1"
    case.run(*short)
    case.killed_after(4, "--overwrite", "true")
    case.run("--resume")
    assert went_on(case)
    assert case.digests() == whole(case).digests()
