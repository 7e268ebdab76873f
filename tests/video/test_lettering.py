"""Text on pictures in every script: letters where a font has them, written out where none has."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rollforge.video import lettering
from rollforge.video.sheet import ContactSheet, draw, fitted, font


def drawn(text: str, letters: ImageFont.FreeTypeFont | None = None, anchor: str = "la") -> NDArray[np.uint8]:
    image = Image.new("L", (400, 60))
    ImageDraw.Draw(image).text((200, 30), text, 255, letters or font(15), anchor=anchor)
    return np.asarray(image)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without fonts of its own."""
    monkeypatch.setattr(lettering, "_installed", lambda: ())
    monkeypatch.setattr(lettering, "_known", {})


def test_latin_is_drawn_in_pillows_own_font() -> None:
    own = ImageFont.load_default(15)
    assert isinstance(own, ImageFont.FreeTypeFont)
    assert np.array_equal(drawn("A red ball, 12 s"), drawn("A red ball, 12 s", own))


@pytest.mark.usefixtures("bare")
def test_what_no_font_has_is_written_out(caplog: pytest.LogCaptureFixture) -> None:
    assert np.array_equal(drawn("雪 a\x1b"), drawn("\\u96ea a\\x1b"))
    assert np.array_equal(drawn("e\u0301\u200d"), drawn("é"))
    assert [message.partition(";")[0] for message in caplog.messages] == ["No font here has 雪"]


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("text", ["Красный шар", "κόκκινη μπάλα", "כדור אדום", "كرة حمراء"])
def test_scripts_of_dejavu_are_letters_and_no_boxes(text: str) -> None:
    box = drawn("\uffff" * len(text), ImageFont.load_default(15))  # type: ignore[arg-type]
    assert not np.array_equal(drawn(text), box)
    assert not np.array_equal(drawn(text), drawn("".join(f"\\u{ord(letter):04x}" for letter in text)))


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("anchor", ["la", "rm", "mm", "ls"])
def test_several_fonts_make_one_line(anchor: str) -> None:
    """Where the ink of a mixed text lies, against that of a text of one font."""

    def ink(text: str) -> list[int]:
        rows, columns = drawn(text, anchor=anchor).nonzero()
        return [int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())]

    assert np.abs(np.subtract(ink("шar" + "ш"), ink("mar" + "m"))).max() <= 4


def test_texts_are_cut_to_their_lines() -> None:
    assert fitted("a red ball", 15, 300, 1) == "a red ball"
    lines = fitted("a red ball over the grass " * 50, 15, 200, 3).split("\n")
    assert len(lines) == 3
    assert lines[2].endswith("…")
    assert all(font(15).getlength(line) <= 200 for line in lines)
    assert fitted("雪" * 100, 15, 200, 2).count("\n") == 1
    assert all(font(15).getlength(line) <= 200 for line in fitted("x" * 500, 15, 200, 2).split("\n"))


def test_a_sheet_of_long_labels_is_no_wider_than_its_frames_allow() -> None:
    pages = []
    for label in ("a ball", "a red ball over the grass " * 4000):
        sheet = ContactSheet(label, 12, 8.0)
        sheet.add(np.zeros((12, 64, 96, 3), np.uint8))
        pages.append(draw([sheet], label))
    assert pages[1].width < 1.25 * pages[0].width
    assert pages[1].height < 2 * pages[0].height + 100
