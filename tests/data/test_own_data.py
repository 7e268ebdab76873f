"""Own videos with captions in several forms, from archives, and as latents that are kept."""

from __future__ import annotations

import io
import json
import logging
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from objective_parts import Linear, Pixels, pipeline
from torch import Tensor

from rollforge.data.clips import VideoClips, WorldClips
from rollforge.data.tar_shards import unpacked
from rollforge.errors import UserError
from rollforge.lightning.data import RolloutData
from rollforge.lightning.encoded import encoded
from rollforge.lightning.module import RolloutModule
from rollforge.objectives import Objective
from rollforge.objectives.flow import DiffusionForcing
from rollforge.objectives.reconstruction import Reconstruction
from rollforge.video.writer import VideoWriter

FRAMES, SIZE = 3, (16, 16)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def video(path: Path, grey: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, SIZE, 8, crf=0) as writer:
        writer.write(np.full((FRAMES, *SIZE, 3), grey, np.uint8))
    return path


def videos(folder: Path, *names: str) -> Path:
    for n, name in enumerate(names):
        video(folder / name, 20 * n)
    return folder


def clips_of(folder: Path, **more: Any) -> VideoClips:
    return VideoClips(str(folder), FRAMES, SIZE, **more)


def captions(clips: VideoClips) -> dict[str, str]:
    return {clips.starts[n][0].name: clips[n]["caption"] for n in range(len(clips))}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("all.jsonl", '{"file_name": "a.mp4", "text": "a ball"}\n{"video": "sub/b.mp4", "caption": "a box"}\nbroken\n'),
        ("all.csv", 'file,caption\na.mp4,a ball\nb,"a box"\nc.mp4,too,many\n'),
    ],
)
def test_one_file_has_the_captions_of_all_and_its_bad_lines_are_named(
    name: str, content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = videos(tmp_path / "videos", "a.mp4", "sub/b.mp4", "c.mp4")
    (tmp_path / name).write_text(content)
    with caplog.at_level(logging.WARNING):
        found = captions(clips_of(folder, captions=str(tmp_path / name)))
    assert found == {"a.mp4": "a ball", "b.mp4": "a box", "c.mp4": ""}
    assert f"{name}, line {len(content.splitlines())}: expected a video" in caplog.text
    assert " 1 of 3 videos, such as" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("all.jsonl", "broken\n", "holds no caption that can be read"),
        ("all.csv", "a,b\n1,2\n", "the first row must name the columns"),
        ("all.xlsx", "a", "is not a file of captions; give JSON lines"),
    ],
)
def test_a_file_without_captions_is_refused(name: str, content: str, expected: str, tmp_path: Path) -> None:
    folder = videos(tmp_path / "videos", "a.mp4")
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=expected):
        clips_of(folder, captions=str(tmp_path / name))


def shard(path: Path, source: Path) -> Path:
    """A WebDataset archive of two samples, and a member that would lie elsewhere."""
    videos(source, "0.mp4", "1.mp4")
    (source / "0.txt").write_text("a ball")
    (source / "1.json").write_text(json.dumps({"caption": "a box"}))
    with tarfile.open(path, "w") as archive:
        for name in ("0.mp4", "0.txt", "1.mp4", "1.json"):
            archive.add(source / name, name)
        archive.add(source / "0.mp4", "../outside.mp4")
    return path


def test_a_webdataset_archive_is_read_and_stays_inside_its_folder(tmp_path: Path) -> None:
    archive = shard(tmp_path / "shard.tar", tmp_path / "source")
    clips = clips_of(archive)
    assert captions(clips) == {"0.mp4": "a ball", "1.mp4": "a box"}
    assert torch.equal(clips[1]["video"], clips_of(tmp_path / "source")[1]["video"])
    assert not list(tmp_path.rglob("outside.mp4"))
    written = clips.starts[0][0].stat().st_mtime_ns
    assert clips_of(archive).starts[0][0].stat().st_mtime_ns == written  # unpacked once


def test_of_bad_archives_in_a_folder_the_good_members_are_used(tmp_path: Path, caplog: Any) -> None:
    folder = videos(tmp_path / "videos", "plain.mp4")
    archive = shard(folder / "cut.tar", tmp_path / "source")
    archive.write_bytes(archive.read_bytes()[: 512 * 4])
    (folder / "none.tar").write_bytes(b"not an archive" * 100)
    with caplog.at_level(logging.WARNING):
        clips = clips_of(folder)
    assert clips.starts[0][0].name == "plain.mp4"
    assert "none.tar is not a tar archive that can be read" in caplog.text
    assert "cut.tar" in caplog.text


def _member(name: str, size: int = 3, **headers: str) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size, made.pax_headers = size, headers
    return made


def _of_negative_size() -> bytes:
    """A header of a member of -512 bytes, after which tarfile of Python 3.11 finds it again for ever."""
    head = bytearray(_member("a.x", 0).tobuf())
    head[124:136], head[148:156] = b"\xff" + (256**11 - 512).to_bytes(11, "big"), b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


@pytest.mark.parametrize(
    ("member", "content"),
    [
        (_member("a.mp4", 0, **{"GNU.sparse.size": f"{10**15}", "GNU.sparse.map": "0,0"}), b""),
        (_member("a.mp4", 0, **{"GNU.sparse.size": "x", "GNU.sparse.map": "0,0"}), b""),
        (_member("a.mp4", 9, **{"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}), b"9\n" + b"1" * 7),
        (_member("a.mp4", 3, path="a\0b.mp4"), b"abc"),
        (_member("a" * 300 + ".mp4"), b"abc"),
        (_member("first.txt/a.mp4"), b"abc"),
        (_member("a/" * 1500 + "a.mp4"), b"abc"),
        (None, _of_negative_size()),
    ],
    ids=["sparse", "sparse in words", "sparse map", "NUL", "long name", "file as folder", "deep", "negative size"],
)
def test_an_archive_of_a_stranger_neither_hangs_nor_grows(member: Any, content: bytes, tmp_path: Path) -> None:
    archive = tmp_path / f"{'n' * 240}.tar"
    with tarfile.open(archive, "w") as made:
        made.addfile(_member("first.txt"), io.BytesIO(b"abc"))
        if member is not None:
            made.addfile(member, io.BytesIO(content))
    if member is None:
        archive.write_bytes(archive.read_bytes()[:1024] + content + bytes(1024))
    folder = unpacked(archive, (".mp4",), tmp_path / "shards")
    assert [file.name for file in folder.rglob("*")] == ["first.txt"]


class Counting(Pixels):
    """Counts what it encodes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.weights = "random"
        self.scale = torch.nn.Parameter(torch.ones(()))

    def encode(self, video: Tensor) -> Tensor:
        self.seen.append(video)
        return video


def sized() -> Linear:
    backbone = Linear()
    backbone.spec = backbone.spec.__class__(3, 16, 16, (2, 2), 1, 1, 8, 3, 3, 3, 8.0)
    return backbone


def test_latents_are_encoded_once_and_serve_training_without_the_videos(tmp_path: Path, caplog: Any) -> None:
    folder = videos(tmp_path / "videos", "a.mp4", "b.mp4")
    (folder / "a.txt").write_text("a ball")
    (folder / "bad.mp4").write_bytes(b"no video")
    owner, clips = pipeline(sized(), codec=Counting()), clips_of(folder)
    first = encoded(clips, owner, tmp_path / "latents").checked()
    assert len(owner.codec.seen) == len(first) == 2
    assert first[0]["caption"] == "a ball"
    expected = clips[0]["video"].permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(first[0]["latents"], expected)
    again = encoded(clips_of(folder), owner, tmp_path / "latents").checked()
    assert len(owner.codec.seen) == 2
    for file in ("a.mp4", "b.mp4"):
        (folder / file).write_bytes(b"gone")
    assert torch.equal(again[0]["latents"], first[0]["latents"])
    assert "bad.mp4" in caplog.text


def test_another_cut_of_the_same_videos_has_latents_of_its_own(tmp_path: Path) -> None:
    folder = videos(tmp_path / "videos", "a.mp4")
    owner = pipeline(sized(), codec=Counting())
    encoded(clips_of(folder), owner, tmp_path / "latents")
    encoded(VideoClips(str(folder), 2, SIZE), owner, tmp_path / "latents")
    assert [len(seen[0]) for seen in owner.codec.seen] == [3, 2]


def training(folder: Path, objective: Objective, dataset: Any = None) -> None:
    owner = pipeline(sized(), codec=Counting())
    module = RolloutModule(
        owner.backbone, owner.conditioner, owner.codec, owner.policy, owner.sampler, objective=objective
    )
    module.backbone.weights = "random"
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_steps=2,
    )  # fmt: skip
    data = dataset or clips_of(folder / "videos")
    trainer.fit(module, RolloutData(train_dataset=data, batch_size=2, latent_cache=str(folder / "latents")))
    for noisy, *_ in owner.backbone.shown:
        assert noisy.shape == (2, FRAMES, 3, 16, 16)
    assert len(owner.backbone.shown) == 2


@pytest.mark.parametrize("damage", [lambda data: data[:-4], lambda data: data[:-1] + bytes([data[-1] ^ 1])])
def test_fit_trains_on_cached_latents_and_refuses_a_corrupt_one_before_the_first_step(
    damage: Any, tmp_path: Path
) -> None:
    videos(tmp_path / "videos", "a.mp4", "b.mp4")
    training(tmp_path, DiffusionForcing(drop_text=1.0))
    file = sorted((tmp_path / "latents").glob("*.clip"))[0]
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=r"^The cached latent .*clip is damaged \(.*\); remove it, and the next fit"):
        training(tmp_path, DiffusionForcing(drop_text=1.0))


@pytest.mark.parametrize(
    ("objective", "dataset", "expected"),
    [
        (DiffusionForcing(), WorldClips(FRAMES, 2), "keeps latents of clips that are always the same, and WorldClips"),
        (Reconstruction(), None, "and this objective trains the codec, which needs pixel frames"),
    ],
)
def test_what_has_no_lasting_latents_is_refused(objective: Any, dataset: Any, expected: str, tmp_path: Path) -> None:
    videos(tmp_path / "videos", "a.mp4", "b.mp4")
    with pytest.raises(UserError, match=expected):
        training(tmp_path, objective, dataset)
