"""What runs the pages can fail: a shown output, a picture or a command that is not what the code makes."""

from __future__ import annotations

from pathlib import Path

import page_blocks
import page_pictures
import pytest
from page import Page
from PIL import Image
from sybil.example import SybilFailure

PAINT = """```python
from PIL import Image
Image.new("RGB", (8, 8), "{colour}").save("images/one.png")
```

![one](images/one.png)
"""


@pytest.fixture(autouse=True)
def comparing(monkeypatch: pytest.MonkeyPatch) -> None:
    """These pages are compared, also where the others are written again."""
    for module in (page_blocks, page_pictures):
        monkeypatch.setattr(module, "REFRESH", False)


def run(file: Path, text: str) -> Page:
    """Runs a page of this text."""
    file.write_text(text)
    page, folder = Page(file), file.parent / "work"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    page.run(folder)
    return page


@pytest.mark.parametrize(
    "text",
    [
        "```python\nprint(1 + 1)\n```\n\n```text\n2\n```\n",
        "```python\nprint('tint 0.11 of 3')\n```\n\n```text\ntint 0.14 of 3\n```\n",
        "```python\nx = 1\n```\n\n```python\nx + 1\n```\n\n```text\n2\n```\n",
        "```python\nprint('one'); print('two'); print('three')\n```\n\n```text\none\n...\nthree\n```\n",
        '```yaml title="a.yaml"\nx: 1\n```\n\n```bash\ncat a.yaml | tr x y\n```\n\n```text\ny: 1\n```\n',
    ],
    ids=["printed", "nearly", "one namespace", "ellipsis", "a file and a command"],
)
def test_a_page_that_is_right_passes(tmp_path: Path, text: str) -> None:
    assert run(tmp_path / "page.md", text).skipped == []


def test_a_block_that_is_left_out_says_why(tmp_path: Path) -> None:
    text = '<!--- skip: next "no GPU here" -->\n\n```python\nraise SystemError\n```\n'
    (skipped,) = run(tmp_path / "page.md", text).skipped
    assert skipped.reason == "no GPU here"
    assert skipped.block.code == "raise SystemError\n"


@pytest.mark.parametrize("shown", ["tint 0.25 of 3", "tint 0.11 of 4", "hue 0.11 of 3", "tint 0.11 of 3 in 2.0 s"])
def test_a_number_too_far_off_and_other_words_fail(tmp_path: Path, shown: str) -> None:
    with pytest.raises(SybilFailure, match="but this was printed"):
        run(tmp_path / "page.md", f"```python\nprint('tint 0.11 of 3')\n```\n\n```text\n{shown}\n```\n")


def test_a_wrong_output_fails_and_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, text = tmp_path / "page.md", "one\n\n```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n\ntwo\n"
    with pytest.raises(SybilFailure, match="make docs-refresh"):
        run(page, text)
    monkeypatch.setattr(page_blocks, "REFRESH", True)
    monkeypatch.setattr(page_pictures, "REFRESH", True)
    run(page, text)
    assert page.read_text() == text.replace("\n3\n", "\n2\n")


def test_a_command_that_fails_fails(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="exit code 3"):
        run(tmp_path / "page.md", "```bash\n(exit 3)\necho reached\n```\n")


def test_a_picture_that_the_code_does_not_make_fails(tmp_path: Path) -> None:
    with pytest.raises(SybilFailure, match=r"images/two\.png, which its code does not make"):
        run(tmp_path / "page.md", "```python\nx = 1\n```\n\n![two](images/two.png)\n")


def test_a_picture_that_has_changed_fails(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "images" / "one.png")
    run(tmp_path / "page.md", PAINT.format(colour="red"))
    with pytest.raises(SybilFailure, match="differs from what the code made"):
        run(tmp_path / "page.md", PAINT.format(colour="blue"))
