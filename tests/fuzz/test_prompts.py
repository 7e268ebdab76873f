"""Prompt untrusted files: an error, or the prompts that stand there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from damage import ODD, changes, damaged, twisted
from hypothesis import strategies as st
from watch import RESULT, answered, fuzz

from rollforge.backbones.pocket.text import PocketText
from rollforge.data.requests import read_prompts
from rollforge.lightning.data import RolloutData
from rollforge.report.run import RunFolder

TEXT = b"a red ball over snow at day\n\n  a green cone and a blue box over sand at night\na box\n"
LINES: list[Any] = [
    {"prompt": "a red ball"},
    {"prompts": ["a box", "a cone", "a ball"]},
    {"prompts": [{"prompt": "a box"}, {"at": "6s", "prompt": "a cone"}, {"at": "1m30s", "prompt": "a ball"}]},
]
SPOKEN = st.text(max_size=30) | st.sampled_from(
    ["a\0b", "\u202ered", "\x1b]0;x\x07", "\ufeffa box", "a\u2028b", "…" * 900]
)


def lines(value: Any) -> bytes:
    return "\n".join(json.dumps(line) for line in (value if isinstance(value, list) else [value])).encode()


def encoded(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def used(path: Path) -> None:
    """Goes the way of ``predict`` with the prompts, as far as a file name."""
    requests = RolloutData(prompts=str(path), seconds=120).requests(2.0)
    for request in requests:
        name = RunFolder(path.parent, {}).name(request)
        assert "/" not in name
        assert len(name) < 100
        assert request.prompts[0] == request.prompt_at(0)
        json.dumps(request.prompt).encode()
    PocketText().check([prompt for request in requests for prompt in request.prompts.values()])


def decoded(given: bytes) -> str:
    """What an editor shows."""
    marked = given.startswith((b"\xff\xfe", b"\xfe\xff"))
    return given.decode("utf-16" if marked else "utf-8-sig", errors="replace")


def test_text_files(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"

    def door(given: bytes) -> str:
        file.write_bytes(given)
        decoded_lines = re.split("\r\n|\r|\n", decoded(given))
        lines = [line.strip() for line in decoded_lines if line.strip() and not re.match(r"#(\s|$)", line.strip())]
        wanted = [re.sub(r'^"([^"]+)"$', r"\1", line) for line in lines]

        def right(read: Any) -> None:
            assert [shot for shots in read for shot in shots] == [(line, 0.0, False) for line in wanted]

        answer = answered(lambda: read_prompts(file), right)
        if answer == RESULT:
            answered(lambda: used(file), lambda _: None)
        return answer

    text_changed = changes(len(TEXT)).map(lambda made: damaged(TEXT, made))
    fuzz("prompts", 125, text_changed | st.lists(SPOKEN).map("\n".join).map(encoded), door)


def test_json_lines(tmp_path: Path) -> None:
    file, text = tmp_path / "prompts.jsonl", lines(LINES)

    def door(given: bytes) -> str:
        file.write_bytes(given)

        def right(read: Any) -> None:
            expected = [json.loads(line) for line in re.split("\r\n|\r|\n", decoded(given)) if line.strip()]
            assert len(read) == len(expected)
            for shots, line in zip(read, expected, strict=True):
                keys = ("prompts", "prompt", "prompt_en", "text", "caption")
                each = line if isinstance(line, str) else next(line[key] for key in keys if key in line)
                each = each if isinstance(each, list) else [each]
                texts = [one["prompt"] if isinstance(one, dict) else one for one in each]
                assert [shot.prompt for shot in shots] == [one.strip() for one in texts]
                times = [shot.at for shot in shots if shot.at is not None]
                assert times == sorted(times)
                assert times[:1] == [0.0]

        answer = answered(lambda: read_prompts(file), right)
        if answer == RESULT:
            answered(lambda: used(file), lambda _: None)
        return answer

    text_changed = changes(len(text)).map(lambda made: damaged(text, made))
    fuzz(
        "prompts",
        250,
        text_changed | twisted(LINES).map(lines) | SPOKEN.map(lambda one: lines([{"prompt": one}])),
        door,
    )


def test_folders_and_lists(tmp_path: Path) -> None:
    def door(given: Any) -> str:
        def right(read: Any) -> None:
            assert all(isinstance(shot.prompt, str) and shot.prompt.strip() for shots in read for shot in shots)

        return answered(lambda: read_prompts(given), right)

    over_time = twisted([[{"prompt": "a box"}, {"at": "6s", "prompt": "a cone"}], "a ball"])
    as_given = over_time.filter(lambda given: isinstance(given, list)) | st.sampled_from(ODD).filter(
        lambda odd: isinstance(odd, str)
    )
    fuzz("prompts", 75, as_given, door)
