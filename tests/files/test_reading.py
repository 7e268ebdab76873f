"""Untrusted files: what is opened, in which order, and what is said of the rest."""

from __future__ import annotations

import ast
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rollforge.errors import UserError
from rollforge.evaluation.video_folder import result_names
from rollforge.files.reading import caption, listed, open_regular, parse_json, plain_name, read_json, read_text


def _fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    ("make", "kind"),
    [(_fifo, "a named pipe"), (Path.mkdir, "a folder"), (lambda path: path.symlink_to("/dev/zero"), "a device")],
    ids=["named pipe", "folder", "device"],
)
def test_only_regular_files_are_opened(tmp_path: Path, make: Callable[[Path], object], kind: str) -> None:
    make(tmp_path / "a.txt")
    with pytest.raises(OSError, match=f"it is {kind}, not a regular file"):
        open_regular(tmp_path / "a.txt")
    with pytest.raises(UserError, match=f"The caption .*a.txt cannot be read \\(it is {kind}, not a regular file\\)"):
        read_text(tmp_path / "a.txt", 100, "caption")


def test_a_folder_is_listed_in_natural_order_without_hidden_files(tmp_path: Path) -> None:
    names = ["1.txt", "2.txt", "10.txt", "a2b10.txt", "A10b1.TXT", "b.txt"]
    for name in [*reversed(names), "._1.txt", ".DS_Store.txt", "1.png"]:
        (tmp_path / name).write_text("x")
    assert [file.name for file in listed(tmp_path, (".txt",), "prompt file")] == names


def test_a_folder_is_listed_without_hidden_files_and_pipes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("10.png", "9.PNG", "._9.PNG"):
        (tmp_path / name).touch()
    _fifo(tmp_path / "11.png")
    (tmp_path / "12.png").mkdir()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    with caplog.at_level(logging.WARNING):
        assert [file.name for file in listed(tmp_path, (".png",), "picture")] == ["9.PNG", "10.png"]
    assert [message.split(tmp_path.name)[1] for message in caplog.messages] == [
        "/11.png is left out (it is a named pipe, not a regular file).",
        "/12.png is left out (it is a folder, not a regular file).",
        "/gone.png is left out (No such file or directory).",
        "/loop.png is left out (Too many levels of symbolic links).",
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom", "utf-16-be-bom"])
def test_text_is_read_as_editors_write_it(tmp_path: Path, encoding: str) -> None:
    text = "eine Brücke, 雪\n"
    mark = {"utf-16-le-bom": "\ufeff", "utf-16-be-bom": "\ufeff"}.get(encoding, "")
    (tmp_path / "a.txt").write_bytes((mark + text).encode(encoding.removesuffix("-bom")))
    assert read_text(tmp_path / "a.txt", 100, "caption") == text


def test_a_caption_lies_beside_its_video(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a secret")
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "a.txt").write_text(" a red ball\n")
    (videos / "b.txt").symlink_to(videos / "a.txt")
    (videos / "c.txt").symlink_to(tmp_path / "secret")
    _fifo(videos / "d.txt")
    assert [caption(videos / f"{name}.mp4", videos) for name in "abde"] == ["a red ball", "a red ball", "", ""]
    with pytest.raises(UserError, match=r"c.txt is a link to .*secret, outside its folder"):
        caption(videos / "c.mp4", videos)


@pytest.mark.parametrize("depth", [65, 900, 100_000])
def test_json_that_nests_too_deep_is_an_error(tmp_path: Path, depth: int) -> None:
    for text in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
        with pytest.raises(ValueError, match="nests deeper than 64 levels"):
            parse_json(text)
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(UserError, match=r"a.json is not readable JSON \(it nests deeper"):
            read_json(tmp_path / "a.json", 10_000_000, "manifest")
    assert parse_json("[" * 64 + "]" * 64)


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A red ball, over snow!", "a-red-ball-over-snow"),
        ("雪の上の猫、夜", "雪の上の猫-夜"),
        ("लाल गेंद", "लाल-गेंद"),
        ("cafe\u0301 ../../etc\x1b[31m\udcff", "café-etc-31m"),
        ("雪" * 100, "雪" * 40),
        ("🎈🎈", ""),
    ],
)
def test_names_keep_the_letters_of_every_script(prompt: str, name: str) -> None:
    assert plain_name(prompt) == name


def test_results_of_videos_have_names_of_their_own() -> None:
    long = "x" * 249
    names = [f"{long}1.mp4", f"{long}2.mp4", "a.mp4", "a.mov", "a-mp4.mp4", "\x1b[31m\udcff.mp4"]
    made = list(result_names([Path(name) for name in names]).values())
    assert len({name.casefold() for name in made}) == len(names)
    assert all(len(f"{name}.latent_metrics.partial.csv".encode()) <= 255 and name.isprintable() for name in made)


OWN = {  # files of this machine, of the package, or made by the process itself
    "rollforge/budget/free.py", "rollforge/snapshots/identity.py", "rollforge/snapshots/commit.py",
    "rollforge/commands/new_plugin.py", "rollforge/comparison/page/build.py", "rollforge/pipeline/clip.py",
    "rollforge/gpu/report.py", "rollforge/files/reading.py",
    "plugins/rollforge-vbench/rollforge_vbench/driver.py", "plugins/rollforge-vbench/rollforge_vbench/interpreter.py",
}  # fmt: skip


def test_no_module_opens_files_of_others_by_itself() -> None:
    root = Path(__file__).parents[2]
    modules = [*root.glob("rollforge/**/*.py"), *root.glob("plugins/*/rollforge_*/**/*.py")]
    found = {str(file.relative_to(root)) for file in modules if any(map(_reads, ast.walk(ast.parse(file.read_text()))))}
    assert found == OWN


def _reads(node: ast.AST) -> bool:
    """Whether it is a call that opens a file to read it, and would wait for what a named pipe holds."""
    if not isinstance(node, ast.Call):
        return False
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    if name in ("read_text", "read_bytes"):
        return isinstance(node.func, ast.Attribute)
    texts = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    plain = name == "open" and isinstance(node.func, ast.Name)
    return name == "open" and (bool({"r", "rb"} & {*texts}) or (plain and not texts))
