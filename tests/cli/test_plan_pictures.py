"""``rollforge plugins show NAME --plot``: what is recorded, what is drawn, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from rollforge.cli import main
from rollforge.commands.plan_picture import Axis, draw, shade
from rollforge.commands.plan_record import record
from rollforge.policies import CachePolicy, LongLive, RollingSink
from rollforge.spec import Cut, Event, Phase, ReadPlan, Segment, Step, Virtual


class Marked(CachePolicy):
    """A virtual frame, a bias, layers of its own, another commit, and less after a cut."""

    first = 0

    def plan(self, step: Step) -> ReadPlan:
        begin = max(self.first, step.start - 2 * step.block)
        runs = [Segment(begin, begin, step.start - begin, bias=-1.0)]
        if step.start > 2 * step.block and step.phase is Phase.DENOISE:
            runs.insert(0, Segment(-1, 0, 1, layers=range(20, 30)))
        return ReadPlan(tuple(run for run in runs if run.length > 0), step.start)

    def virtual(self, step: Step) -> Sequence[Virtual]:
        return [Virtual(-1, (step.start - 1,))] if step.start else []

    def live(self, start: int, block: int) -> frozenset[int]:
        return frozenset([-1, *range(max(0, start - 3 * block), start)])

    def visible(self, block: int) -> int:
        return 2 * block + 1

    def on_event(self, event: Event) -> Sequence[range]:
        if isinstance(event, Cut):
            self.first = event.step.start
        return ()


def test_blocks_before_and_after_the_window_is_full_and_after_events_are_recorded() -> None:
    found = record(RollingSink(3, 2), block=2, blocks=12)
    assert [read.step.start // 2 for read in found.blocks] == [3, 4, 9, 11]
    assert [len(read.plan.entries()) for read in found.blocks] == [6, 6, 6, 6]
    assert found.still == ("a switch of prompt", "a cut")
    assert (found.reads, found.kept, found.moves) == (6, 8, 6)

    *_, switched = record(LongLive(2, 1), block=1, blocks=8).blocks
    assert switched.event == "after a switch of prompt"
    assert switched.reread == {3, 4}

    marked = record(Marked(), block=1, blocks=8)
    assert marked.still == ("a switch of prompt",)
    *_, cut = marked.blocks
    assert (cut.event, cut.plan.entries()) == ("after a cut", ((-1, 0),))
    assert all(read.commit is not None for read in marked.blocks[1:])


def test_a_picture_shows_every_frame_and_what_is_special_of_it() -> None:
    found = record(Marked(), block=1, blocks=8)
    figure = draw(found, "Marked")
    assert len(figure.axes) == len(found.blocks)
    panel = figure.axes[1]
    assert panel.get_title(loc="left") == "block 3"
    frames = [patch for patch in panel.patches if patch.get_fill()]
    assert len(frames) == 3 + 1  # a virtual frame, two others, and the block itself
    assert {round(patch.get_alpha() or 1, 3) for patch in frames} == {1.0, round(shade(-1.0), 3)}
    assert len(panel.lines) > 0  # dots of what the commit reads
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "virtual frame (below 0)" in labels
    assert "some layers only" in labels
    assert any("bias of -1" in label for label in labels)
    switched = draw(record(LongLive(2, 1), block=1, blocks=6), "LongLive")
    assert "read again before the block" in [text.get_text() for text in switched.legends[0].get_texts()]


def test_long_gaps_are_left_out_of_an_axis() -> None:
    axis = Axis([-1, 0, 1, 2, 40, 41])
    assert list(axis.place.values()) == [0, 3, 4, 5, 8, 9]
    assert axis.ticks()[1] == ["-1", "0", "2", "40"]
    assert Axis([5, 6, 7]).breaks == []


def test_the_command_writes_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pictures" / "window.png"
    line = ["plugins", "show", "Window", "--plot", "--args", "{context_blocks: 2}", "--block", "1", "-o", str(file)]
    assert main(line) == 0
    message = "The last block reads 2 frames; 2 are kept, 0 of them raw. A switch of prompt and a cut change nothing."
    assert capsys.readouterr().out == f"{file}: {message}\n"
    with Image.open(file) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 150
        colours = {colour for count, colour in picture.convert("RGB").getcolors(1 << 20) or [] if count > 50}
    assert (0x3B, 0x6E, 0xA8) in colours  # frames at their own time


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["IndependentNoise"], "IndependentNoise is a noise, and only a cache policy has a plan to draw"),
        (["RollingSink", "--args", "{sink_blocks: 9}"], "sink_blocks"),
        (["RollingSink", "--args", "{sinks: 2}"], "sinks"),
        (["RollingSink", "--args", "[3]"], "expected names with values"),
        (["RollingSink", "--sampler", "Window"], "--sampler is Window, which is a cache"),
        (["Nothing"], "There is no part called 'Nothing'"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plugins", "show", *arguments, "--plot"]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not list(tmp_path.iterdir())
