"""The report as a file: what is in it, what it weighs, and what cannot get out of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from finished_runs import HOSTILE, POLICIES

from rollforge.comparison.page import build as module
from rollforge.comparison.page.build import build
from rollforge.comparison.page.embed import ESCAPED, escape
from rollforge.comparison.page.plans import STEPS, draw, plans
from rollforge.comparison.page.strips import strips
from rollforge.comparison.run_result import RunResult, gather
from rollforge.comparison.runs import Run
from rollforge.doctor.parts import build as build_part
from rollforge.policies import Window
from rollforge.spec import ReadPlan, Step

Make = Callable[..., list[Run]]
RED = "a red ball over snow at day"


def page(runs: list[Run]) -> bytes:
    """The report of runs."""
    return build(gather(runs), runs[0].runs.parent, ["rollforge", "compare"], ["model.policy=Window,RollingSink"])


def blocks(content: bytes) -> dict[str, bytes]:
    """The bytes that a page holds, by id."""
    found = {}
    for name, size, text in re.findall(rb"<!--(b\d+) \S+ (\d+):(.*?)-->", content, re.DOTALL):
        plain = text
        for byte, written in reversed(ESCAPED.items()):
            plain = plain.replace(written, byte)
        assert len(plain) == int(size)
        found[name.decode()] = plain
    return found


def data(content: bytes) -> dict[str, list[object]]:
    """The data of a page."""
    embedded = re.search(rb'<script type="application/json" id="data">(.*?)</script>', content, re.DOTALL)
    assert embedded
    found: dict[str, list[object]] = json.loads(embedded[1])
    return found


def test_any_bytes_survive_and_none_can_end_the_element() -> None:
    every = bytes(range(256)) * 3 + b"--><!--!>\r\n=E=0=G"
    escaped = escape(every)
    assert not set(b"\0\r>") & set(escaped)
    for byte, written in reversed(ESCAPED.items()):
        escaped = escaped.replace(written, byte)
    assert escaped == every
    assert len(escape(bytes(range(256)))) == 260


def test_a_page_holds_every_video_as_it_is_and_weighs_little_more(finished: Make) -> None:
    runs = finished([RED, "another"], policies=2)
    content = page(runs)
    held = blocks(content)
    rows = data(content)["videos"]
    weight = 0
    for run, row in zip(runs, rows, strict=True):
        for sample, entry in enumerate(row):  # type: ignore[arg-type]
            file = run.folder / f"{sample:03d}-video.mp4"
            assert held[entry["video"]] == file.read_bytes()
            assert held[entry["strip"]].startswith(b"\xff\xd8")
            weight += file.stat().st_size
    assert len(content) <= weight + 5_000_000


def test_a_page_asks_nothing_of_the_network_and_runs_no_script_but_its_own(finished: Make) -> None:
    content = page(finished([RED], policies=2))
    text = re.sub(rb"<!--b.*?-->", b"", content, flags=re.DOTALL).decode("ascii")
    addresses = set(re.findall(r"https?://[^\s\"'<]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert (
        'content="default-src &#x27;none&#x27;' in text or "content=\"default-src 'none'; script-src 'sha256-" in text
    )
    assert "unsafe-inline" not in text
    assert not re.search(r"<[^>]+\s(style|on\w+)=", text[: text.index('<script type="application/json"')])


def test_prompts_of_strangers_stay_text(finished: Make) -> None:
    content = page(finished([HOSTILE, "na\u00efve \u2013 \U0001f600"], policies=1))
    assert HOSTILE.encode() not in content
    assert b"<img" not in content.replace(b'"img"', b"")
    assert data(content)["prompts"] == [HOSTILE, "na\u00efve \u2013 \U0001f600"]


def test_large_videos_are_played_from_beside_the_page(finished: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EMBEDDED", 1000)
    runs = finished([RED], policies=1)
    content = page(runs)
    ((entry,),) = data(content)["videos"]  # type: ignore[misc]
    assert entry["href"] == f"runs/{runs[0].folder.name}/000-video.mp4"
    assert (runs[0].runs.parent / entry["href"]).is_file()
    assert b"keep it in its folder" in content
    assert len(blocks(content)) == 1  # the contact sheet


def test_what_is_not_there_is_not_shown(finished: Make) -> None:
    runs = finished([RED, "another"], policies=3)
    (runs[0].folder / "001-video.mp4").unlink()
    (runs[1].folder / "000-video.curves.csv").unlink()
    (runs[0].folder / "000-video.mp4").write_bytes(b"no video")
    runs[2].failure = "There is <no> such file."
    content = page(runs)
    assert data(content)["videos"][0][1] is None  # type: ignore[index]
    assert "strip" not in data(content)["videos"][0][0]  # type: ignore[index]
    assert data(content)["points"] == ["Window", "AttentionSink"]
    assert b"SlidingIndices</strong> failed and is not shown: There is &lt;no&gt; such file." in content


def test_the_page_says_how_it_was_made(finished: Make) -> None:
    text = page(finished([RED], policies=2)).decode("ascii", "replace")
    for expected in (
        "an abacus",
        "rollforge test --config=tiny.yaml --model.policy=Window --output_dir",
        "512",
        "higher is better",
    ):
        assert expected in text
    assert "<code>model.policy.init_args.sink_blocks</code></th><td>-</td><td>5</td>" in text


@pytest.mark.parametrize("name", POLICIES)
def test_a_plan_shows_each_pair_of_a_policy_once(name: str) -> None:
    policy = build_part("policy", POLICIES[name])
    picture = draw(policy, 3, name)
    cells = re.findall(
        r'<rect x="([\d.]+)" y="(\d+)" width="([\d.]+)" height="10" fill="#\w{6}"><title>(.*?)</title>', picture
    )
    for step in range(STEPS):
        entries = policy.plan(Step.of(step, 3)).entries()
        shown = sum(float(width) for _, y, width, _ in cells if int(y) == 10 * step)
        assert shown == pytest.approx(10 * len(entries) / 3, abs=0.01)
    assert picture.count('class="own"') == STEPS
    if name == "RollingSink":
        assert any("frames 17 to 15 at times 18 to 20" in text for *_, text in cells)  # backwards


@pytest.mark.parametrize(("metrics", "frames"), [({"block": 1}, 7), ({"block": 3}, 21), ({}, 21)])
def test_a_plan_is_drawn_in_blocks_of_the_model_that_ran(metrics: dict[str, int], frames: int) -> None:
    config = {"model": {"policy": {"class_path": "Window", "init_args": {"context_blocks": 7}}}}
    (plan,) = plans([RunResult("a", Path(), config, metrics, {}, {})])
    assert plan.description.startswith(f"A block reads {frames} latent frames;")


class Remembering(Window):
    """Reads only frames whose commit it was notified of."""

    def __init__(self) -> None:
        super().__init__(2)
        self.committed: list[int] = []

    def plan(self, step: Step) -> ReadPlan:
        return ReadPlan.of(((frame, frame) for frame in self.committed[-6:]), query=step.start)

    def on_commit(self, step: Step) -> None:
        self.committed += step.frames


def test_a_plan_follows_what_the_policy_keeps_from_commits() -> None:
    policy = Remembering()
    assert draw(policy, 3, "Remembering").count("block 9 reads frames") == 2  # two blocks of context
    assert not policy.committed


def test_strips_keep_to_their_budget(finished: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (run,) = finished([RED], policies=1)
    file = run.folder / "000-video.mp4"
    (large,) = strips([file])
    monkeypatch.setattr("rollforge.comparison.page.strips.BUDGET", 100)
    small, none = strips([file, tmp_path / "missing.mp4"])
    assert large
    assert small
    assert none is None
    assert small.size[0] < large.size[0]
    assert small.times == large.times
    assert len(small.times) == 12
