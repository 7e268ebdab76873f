"""Damaged manifests, and damaged configs next to them: an error, or entries of files in the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from damage import changes, damaged, twisted
from hypothesis import strategies as st
from watch import answered, fuzz

from rollforge.data.requests import Request
from rollforge.report.run import RunFolder

CONFIG = {"model": {"policy": {"class_path": "Window", "init_args": {"sink": [1, 2.5, None]}}}, "data": {"seconds": 3}}
REQUESTS = [Request(f"a {what} over snow", n, 7, 12) for n, what in enumerate(("ball", "cone"))]
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
CONFIGS = [
    f"{BOMB}model: *i\n",
    "model: &m [*m]\n",
    "[" * 5000,
    "model: " + "[" * 900 + "]" * 900,
    "model: !!python/x 1",
]


def entry(request: Request, file: str) -> dict[str, Any]:
    asked = {"prompt": request.prompt, "seed": request.seed, "latent_frames": request.frames}
    return {"file": file, **asked, "fps": 8.0, "size": [96, 64], "complete": True}


def complete(manifest: bytes) -> dict[str, bool]:
    """What a manifest that can be read says of its videos."""
    try:
        return {each["file"]: bool(each["complete"]) for each in json.loads(manifest)["videos"]}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


def test_manifests(tmp_path: Path) -> None:
    path = tmp_path / "run"
    folder = RunFolder(path, CONFIG)
    names = [f"{folder.name(request)}.mp4" for request in REQUESTS]
    entries = [entry(request, name) for request, name in zip(REQUESTS, names, strict=True)]
    document = {"rollforge": "1", "config_hash": folder.config_hash, "complete": True, "videos": entries}
    text, config = json.dumps(document, indent=2).encode(), yaml.safe_dump(CONFIG).encode()
    outside = tmp_path / "evil.mp4"
    outside.touch()

    def take_up() -> tuple[RunFolder, list[bool]]:
        taken = RunFolder(path, CONFIG)
        taken.open()
        finished = [taken.finished(name, request) for name, request in zip(names, REQUESTS, strict=True)]
        taken.expect(entry(request, name) for name, request in zip(names, REQUESTS, strict=True))
        return taken, finished

    marked: dict[str, bool] = {}  # of each video, whether the manifests call it complete

    def right(answer: tuple[RunFolder, list[bool]]) -> None:
        taken, finished = answer
        assert finished == [marked[name] for name in names]
        for name, kept in taken.entries.items():
            assert kept["file"] == name
            assert (path / name).resolve().parent == path.resolve()
        assert json.loads((path / "manifest.json").read_text())["videos"]

    def door(case: tuple[bytes, bytes, bool]) -> str:
        manifest, config, of_another_rank = case
        path.mkdir(exist_ok=True)
        for file in path.iterdir():
            file.unlink()
        for name in names:
            (path / name).touch()
        (path / "manifest.json").write_bytes(text if of_another_rank else manifest)
        if of_another_rank:
            (path / "manifest.rank-1.json").write_bytes(manifest)
        (path / "config.yaml").write_bytes(config)
        marked.clear()
        marked.update(dict.fromkeys(names, True) if of_another_rank else {})
        marked.update(complete(manifest))
        answer = answered(take_up, right)
        assert outside.is_file()
        return answer

    manifests = st.one_of(
        changes(len(text)).map(lambda made: damaged(text, made)),
        twisted(document).map(lambda odd: json.dumps(odd).encode()),
        twisted({"videos": entries}).map(
            lambda odd: json.dumps(document | odd).encode() if isinstance(odd, dict) else b""
        ),
    )
    other = json.dumps(document | {"config_hash": "0" * 16}).encode()
    configs = st.one_of(
        changes(len(config)).map(lambda made: damaged(config, made)),
        twisted(CONFIG).map(lambda odd: yaml.dump(odd).encode(errors="replace")),
        st.sampled_from(CONFIGS).map(str.encode),
    )
    drawn = st.tuples(manifests, st.just(config), st.booleans()) | st.tuples(st.just(other), configs, st.just(False))
    fuzz("manifests", 125, drawn, door)
