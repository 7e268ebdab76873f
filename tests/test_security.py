"""Untrusted files: YAML, manifests, prompts, weights, videos and pictures that are not what they say."""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from fractions import Fraction
from pathlib import Path
from typing import Any
from unicodedata import category

import av
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from rollforge.backbones.tensors import HEADER, open_file, open_safetensors, open_sharded
from rollforge.backbones.wan.text_encoder import _open_tokenizer
from rollforge.backbones.weights import open_weights
from rollforge.data import requests
from rollforge.data.opening import opening_frames, read_openings
from rollforge.data.requests import Request, read_prompts
from rollforge.errors import UserError
from rollforge.files.reading import bare_name
from rollforge.files.safe_yaml import SIZE, check, guarded_loader, read
from rollforge.files.sharded import check_folder
from rollforge.files.writing import content_id
from rollforge.lightning.resuming import check_checkpoint
from rollforge.lightning.speed import Speed
from rollforge.report.run import RunFolder
from rollforge.video import reader
from rollforge.video.reader import probe, read_clip
from rollforge.video.writer import VideoWriter

LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LAUGHS, "stands for more than 1,000,000 values"),
        ("a: &a [*a]", "contains itself"),
        ("[" * 100_000, "nests deeper than 64"),
        ("a: !!python/object/apply:os.system [touch mark]", r"requests a Python object \(object/apply:os.system\)"),
        ("a: !!python/name:os.system ", "requests a Python object"),
        ("a: " + "9" * 5000, "number of more than 250 digits"),
        ("a: " + "1:" * 5000 + "1", "number of more than 250 digits"),
        ("a: !other 1", "not readable YAML"),
        ("a: 2001-99-99", "not readable YAML"),
        ("a: [", "not readable YAML"),
    ],
)
def test_a_config_is_plain_data_of_a_sane_size(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError, match=f"a.yaml.*{expected}") as error:
        read(tmp_path / "a.yaml")
    assert "\n" not in str(error.value)


def test_jsonargparse_reads_under_the_same_limits() -> None:
    import jsonargparse

    before = jsonargparse.get_loader("yaml")
    with guarded_loader():
        load = jsonargparse.get_loader("yaml")
        for text in (LAUGHS, "!!python/object/apply:os.system [touch mark]", "x" * (SIZE + 1)):
            with pytest.raises(UserError):
                load(text)
        with pytest.raises(yaml.YAMLError):
            load("a: [")
        assert load("a: &x [1, 2]\nb: *x") == {"a": [1, 2], "b": [1, 2]}
    assert jsonargparse.get_loader("yaml") is before


def test_large_configs_are_refused_and_common_ones_are_not(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("#" * (SIZE + 1))
    with pytest.raises(UserError, match=r"a.yaml is larger than 10 MB"):
        read(tmp_path / "a.yaml")
    for file in Path(__file__).parents[1].glob("configs/**/*.yaml"):
        check(file.read_text(), str(file))


@pytest.mark.parametrize(
    "name",
    ["../a.mp4", "/etc/passwd", "a/b.mp4", "a\\b.mp4", "..", ".", "", ".bashrc", "a\n.mp4", "a\0.mp4", "CON", "nul.mp4",
     "a:b", "x" * 300, "link.mp4", "a.mp4.", 7, None, ["a"]],
)  # fmt: skip
def test_a_manifest_cannot_name_a_file_elsewhere(tmp_path: Path, name: Any) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "link.mp4").symlink_to("/etc/passwd")
    run = RunFolder(folder, {})
    entry = {"file": name, "complete": True, "prompt": "", "seed": 0, "latent_frames": 1}
    manifest = {"config_hash": run.config_hash, "videos": [entry]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"manifest.json is damaged \(.* is not a name of a file in this folder\)"):
        run.open()


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text(alphabet="./\\\0~ aZé-"), st.integers(0, 10**6))
def test_every_prompt_gives_a_safe_name(prompt: str, sample: int) -> None:
    name = RunFolder(Path("out"), {}).name(Request(prompt, sample, 0, 3))
    assert all(letter == "-" or category(letter)[0] in "LMN" for letter in name)
    assert name[0].isdigit()
    assert len(name.encode()) <= 130
    assert not name.endswith("-")
    assert bare_name(f"{name}.mp4", Path("out"))


def test_prompts_and_openings_stay_in_their_folder_and_in_size(tmp_path: Path, monkeypatch: Any) -> None:
    secret, folder = tmp_path / "secret.txt", tmp_path / "prompts"
    secret.write_text("a secret")
    folder.mkdir()
    (folder / "a.txt").write_text("a prompt")
    (folder / "same.txt").symlink_to(folder / "a.txt")
    assert len(read_prompts(folder)) == 2
    (folder / "out.txt").symlink_to(secret)
    with pytest.raises(UserError, match=r"out.txt is a link to .*secret.txt, outside its folder"):
        read_prompts(folder)
    (folder / "a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(UserError, match=r"a.png is a link to .*secret.png, outside its folder"):
        read_openings(str(folder), 1)
    (tmp_path / "large.txt").write_bytes(b"x" * 10_000_001)
    with pytest.raises(UserError, match=r"large.txt is larger than 10 MB"):
        read_prompts(tmp_path / "large.txt")
    monkeypatch.setattr(requests, "MOST", 3)
    (tmp_path / "many.txt").write_text("a\nb\nc\nd\n")
    with pytest.raises(UserError, match=r"many.txt holds more than 3 prompts"):
        read_prompts(tmp_path / "many.txt")
    (tmp_path / "deep.jsonl").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"deep.jsonl, line 1: expected"):
        read_prompts(tmp_path / "deep.jsonl")


def header(file: Path, content: bytes, length: int | None = None) -> Path:
    """A safetensors file of a header alone."""
    file.write_bytes((len(content) if length is None else length).to_bytes(8, "little") + content)
    return file


def test_a_header_cannot_claim_what_the_file_does_not_hold(tmp_path: Path) -> None:
    huge = {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    over = {"a": {"dtype": "F32", "shape": [1 << 62, 4], "data_offsets": [0, 0]}}
    for number, file in enumerate(
        [
            header(tmp_path / "a.safetensors", b"{}", 1 << 62),
            header(tmp_path / "b.safetensors", b"{}", 3),
            header(tmp_path / "c.safetensors", json.dumps(huge).encode()),
            header(tmp_path / "d.safetensors", json.dumps(over).encode()),
            header(tmp_path / "e.safetensors", b"[" * 1_000_000),
        ]
    ):
        with pytest.raises(UserError, match="fetch or export it again"):
            open_safetensors(file, f"Part {number}")


def test_a_header_is_no_larger_than_any_model_needs(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    header(file, b"", HEADER + 1)
    with file.open("r+b") as opened:
        opened.truncate(HEADER * 2)  # a hole: it takes no room
    with pytest.raises(UserError, match="header too large"):
        open_safetensors(file, "Part")
    index = tmp_path / "a.safetensors.index.json"
    index.write_text("{}")
    with index.open("r+b") as opened:
        opened.truncate(HEADER + 1)
    with pytest.raises(UserError, match="larger than 33 MB"):
        open_sharded(index, "Part")


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_no_pickle_runs_code(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1), "b": Bomb(tmp_path / "mark")}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="could run code and is not opened"):
        open_file(tmp_path / "a.pt", "Part")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.bin", "a.safetensors.index.json"])
def test_a_pipe_under_the_name_of_weights_is_not_opened(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=f"{name} cannot be read .it is a named pipe"):
        open_weights(tmp_path / name, "backbone", "Part")


def test_pipes_in_place_of_what_a_training_wrote_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "sharded").mkdir()
    for name in ("last.ckpt", "speed.csv", "sharded/__0_0.distcp", "tokenizer.json"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "sharded/.metadata").touch()
    with pytest.raises(UserError, match=r"last.ckpt cannot be read .it is a named pipe"):
        check_checkpoint(str(tmp_path / "last.ckpt"))
    with pytest.raises(UserError, match="distcp: it is a named pipe"):
        check_folder(tmp_path / "sharded")
    with pytest.raises(UserError, match=r"speed.csv cannot be read .it is a named pipe"):
        Speed(tmp_path / "speed.csv").begin(1)
    with pytest.raises(UserError, match="it is a named pipe"):
        _open_tokenizer(tmp_path)
    with pytest.raises(UserError, match=r"last.ckpt cannot be read .it is a named pipe"):
        content_id(tmp_path / "last.ckpt")


def test_a_pt_file_does_not_unpack_to_more_than_it_is(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1 << 18)}, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as whole,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as z,
    ):
        for name in whole.namelist():
            z.writestr(name, whole.read(name))
    with pytest.raises(UserError, match="claims more numbers than it holds"):
        open_file(tmp_path / "b.pt", "Part")


def test_a_folder_of_the_hub_runs_no_code(tmp_path: Path) -> None:
    names = {"AutoTokenizer": ["evil.Evil", None], "AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\nclass Evil: ...\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Evil", "auto_map": names}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": names}))
    (tmp_path / "tokenizer.json").write_text("{}")
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    pytest.importorskip("transformers")
    with pytest.raises(UserError, match="holds no tokenizer"):
        _open_tokenizer(tmp_path)
    from rollforge.backbones.wan.codec_weights import config_of
    from rollforge.backbones.wan.text_files import TextFiles
    from rollforge.backbones.wan.text_weights import open_model

    assert config_of(tmp_path / "model.safetensors") == {}
    with pytest.raises(UserError, match="describes a evil model"):
        open_model(TextFiles(tmp_path / "config.json", (tmp_path / "model.safetensors",), tmp_path))
    assert not (tmp_path / "mark").exists()


def video(path: Path, frames: int = 4) -> Path:
    with VideoWriter(path, (32, 32), 8) as writer:
        writer.write(np.zeros((frames, 32, 32, 3), np.uint8))
    return path


def test_a_video_cannot_claim_a_size_that_nobody_films(tmp_path: Path) -> None:
    for width, height in ((20_000, 16), (16_384, 8192), (64, 8192)):
        file = tmp_path / f"{width}.avi"
        with av.open(file, "w") as container:
            stream: Any = container.add_stream("rawvideo", rate=8)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            packet = av.Packet(b"\0" * 64)
            packet.stream, packet.pts, packet.dts = stream, 0, 0
            container.start_encoding()
            container.mux(packet)
        with pytest.raises(UserError, match=f"says that it is {width} x {height} pixels"):
            probe(file)


def test_a_video_cannot_claim_an_absurd_rate(tmp_path: Path) -> None:
    with av.open(tmp_path / "a.mp4", "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=30_000)
        stream.width = stream.height = 32
        for number in range(3):
            picture = av.VideoFrame(32, 32, "yuv420p")
            picture.pts, picture.time_base = number, Fraction(1, 30_000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    with pytest.raises(UserError, match="30000 frames a second; expected at most 1000"):
        probe(tmp_path / "a.mp4")


def test_a_clip_is_bounded_before_it_is_made(tmp_path: Path, monkeypatch: Any) -> None:
    path = video(tmp_path / "a.mp4")
    assert read_clip(path, 0, 4).shape == (4, 32, 32, 3)
    monkeypatch.setattr(reader, "CLIP", 3 * 32 * 32 * 3)
    with pytest.raises(UserError, match="4 frames of 32 x 32 pixels take"):
        read_clip(path, 0, 4)


def test_a_playlist_under_the_name_of_a_video_opens_no_other_file(tmp_path: Path) -> None:
    other = video(tmp_path / "other.mp4")
    for number, text in enumerate(
        (f"ffconcat version 1.0\nfile {other.name}\n", f"#EXTM3U\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n")
    ):
        (tmp_path / f"{number}.mp4").write_text(text)
        with pytest.raises(UserError, match="is not a video"):
            probe(tmp_path / f"{number}.mp4")


def test_pictures_are_what_they_say_and_no_bombs(tmp_path: Path) -> None:
    def seen(path: Path) -> Any:
        return opening_frames(path, (32, 32), 8, 1)

    Image.new("1", (16_000, 8_000)).save(tmp_path / "large.png")
    Image.new("1", (8, 8_000)).save(tmp_path / "narrow.png")
    for name in ("large.png", "narrow.png"):
        with pytest.raises(UserError, match="says that it is"):
            seen(tmp_path / name)
    script = io.BytesIO()
    Image.new("RGB", (32, 32)).save(script, "EPS")  # which starts Ghostscript
    (tmp_path / "a.png").write_bytes(script.getvalue())
    with pytest.raises(UserError, match=r"a.png cannot be read"):
        seen(tmp_path / "a.png")
    Image.new("RGB", (32, 32)).save(tmp_path / "b.png")
    assert seen(tmp_path / "b.png").shape == (1, 32, 32, 3)


def test_what_the_page_names_as_shown_is_there() -> None:
    tests = Path(__file__).parent
    page = (tests.parent / "SECURITY.md").read_text()
    sources = "\n".join(file.read_text() for file in tests.rglob("test_*.py"))
    files, names = (set(re.findall(pattern, page)) for pattern in (r"`([a-z_/0-9]+\.py)`", r"`(test_\w+)`"))
    assert files
    assert not [file for file in files if not (tests / file).is_file()]
    assert names
    assert not [name for name in names if f"def {name}(" not in sources]
