"""Prompt files as editors, spreadsheets and other tools write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rollforge.data.requests import read_prompts
from rollforge.errors import UserError
from rollforge.lightning.data import RolloutData

ONE, TWO = "A red ball, rolling: slowly", "雪の上の猫 — “yes”"


def texts(path: Path) -> list[str]:
    return [shots[0].prompt for shots in read_prompts(str(path))]


@pytest.mark.parametrize(
    ("name", "content"),
    {
        "unix": ("a.txt", f"{ONE}\n{TWO}\n".encode()),
        "windows": ("a.txt", f"\ufeff{ONE}\r\n\r\n  {TWO}\r\n".encode()),
        "notepad": ("a.txt", f"{ONE}\r\n{TWO}".encode("utf-16")),
        "old macintosh": ("a.txt", f"{ONE}\r{TWO}\r".encode()),
        "comments and quotes": ("prompts", f'# two of them\n"{ONE}"\n#\n{TWO}\n'.encode()),
        "excel": ("a.csv", f'\ufeffid,Prompt,seed\r\n1,"{ONE}",7\r\n2,{TWO},8\r\n,,\r\n'.encode()),
        "excel abroad": ("a.csv", f"sep=;\r\nprompt;id\r\n{ONE};1\r\n{TWO};2\r\n".encode()),
        "excel unicode text": ("a.tsv", f"caption\tid\r\n{ONE}\t1\r\n{TWO}\t2\r\n".encode("utf-16")),
        "one column": ("a.csv", f"prompt\n{ONE}\n{TWO}\n".encode()),
        "one column without a head": ("a.csv", f'"{ONE}"\n"{TWO}"\n'.encode()),
        "json lines": ("a.jsonl", f'{{"text": {json.dumps(ONE)}, "id": 1}}\r\n{json.dumps(TWO)}\r\n'.encode()),
        "vbench": ("a.json", json.dumps([{"prompt_en": ONE, "dimension": ["x"]}, {"prompt_en": TWO}]).encode()),
        "a list": ("a.JSON", json.dumps([ONE, TWO]).encode("utf-8-sig")),
    }.values(),
)  # fmt: skip
def test_two_prompts_are_read(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert texts(tmp_path / name) == [ONE, TWO]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "une pêche".encode("latin-1"), "cannot be read as UTF-8 text .*; save it as UTF-8"),
        ("a.csv", b"a ball, red\na cat, blue\n", "line 1: the first row of a table must name the column of prompts"),
        ("a.csv", b"prompt,id\na ball, red,1\n", "line 2: 3 cells under 2 names; put quotes around"),
        ("a.csv", b"id,prompt\n1,a ball\n2,\n", "line 3 has an empty prompt"),
        ("a.json", b'{"caption": 7}', "entry 1 has 7 where a prompt was expected; put a prompt in quotes"),
        ("a.json", b"[" * 70 + b"]" * 70, "not JSON that cannot be read .it nests deeper"),
        ("a.jsonl", b'{"prompt": "a"}\n{"image": "a.png"}', r"line 2: expected {.*, not {'image': 'a.png'}"),
        ("a.docx", b"PK\3\4", "is not a prompt file by its name; expected .txt, .csv"),
        ("a.txt", b"# nothing\n\n", "is empty; write one prompt on each line"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=expected):
        read_prompts(tmp_path / name)


def test_one_bad_file_among_many_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "10.txt").write_text("ten")
    (tmp_path / "9.csv").write_text("nine")
    (tmp_path / "1.txt").write_bytes(b"\xff")
    (tmp_path / "notes.md").write_text("no prompt")
    data = RolloutData(prompts=str(tmp_path), seconds=1)
    assert [request.prompt for request in data.requests(8.0)] == ["nine", "ten"]
    (why,) = data.unreadable.values()
    assert "1.txt cannot be read as UTF-8 text" in why
    for name in ("10.txt", "9.csv"):
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match=r"1.txt cannot be read as UTF-8"):
        data.requests(8.0)


@pytest.mark.parametrize(
    "prompt", ["a 24/7 diner at night", "1984", "2024-01-01", "yes", "- a dash", "x" * 5000, "a.b", "# a"]
)
def test_a_prompt_may_look_like_something_else(prompt: str) -> None:
    assert read_prompts(prompt) == read_prompts([prompt])
    assert read_prompts(prompt)[0][0].prompt == prompt


@pytest.mark.parametrize("path", ["prompts.txt", "my prompts.CSV", "a/b", "./my prompts", "/no such folder/a", "~/a"])
def test_what_is_meant_as_a_path_is_no_prompt(path: str) -> None:
    with pytest.raises(UserError, match="a prompt that looks like one goes into a list"):
        read_prompts(path)
    assert read_prompts([path])[0][0].prompt == path


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"Slow motion": "a red ball"}, 'has a prompt with a colon in it; put it in quotes: "Slow motion: a red ball"'),
        (1984, "has 1984 where a prompt was expected; put a prompt in quotes"),
        (True, "has True where a prompt was expected; put a prompt in quotes"),
        (None, "has None where a prompt was expected"),
        ({"at": "30s", "prompt": "b"}, "prompts that follow each other in one video are a list of their own"),
        ("a \udcff", "is not UTF-8 text; write it in UTF-8"),
    ],
)
def test_what_yaml_has_made_of_a_prompt_is_said(value: Any, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        read_prompts(["a", value])
