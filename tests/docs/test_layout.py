"""What the site's build changes in pages, so that they can be read on narrow screens."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

found = importlib.util.spec_from_file_location("layout", Path(__file__).parents[2] / "docs" / "layout.py")
assert found
assert found.loader
layout = importlib.util.module_from_spec(found)
found.loader.exec_module(layout)

TEXT = '<div class="language-text highlight"><pre><span></span><code>'
MESSAGE = '<div class="language-text highlight message"><pre><span></span><code>'


@pytest.mark.parametrize(
    ("page", "changed"),
    [
        ("<code>RollingSink</code>", "<code>RollingSink</code>"),
        ("<code>weights/self_forcing.pt</code>", "<code>weights/<wbr>self_<wbr>forcing.<wbr>pt</code>"),
        (
            "<code>fit [--data.seed 3]</code>",
            '<code>fit [<span class="option">--data</span>.seed 3]</code>',
        ),
        (
            "<pre><code>a_long_name = a_longer_name\n</code></pre>",
            "<pre><code>a_long_name = a_longer_name\n</code></pre>",
        ),
        ('<img alt="A" src="a.png" />', '<a class="picture" href="a.png"><img alt="A" src="a.png" /></a>'),
        (f"{TEXT}kept: 2\n</code></pre>", f"{MESSAGE}kept: 2\n</code></pre>"),
        (f"{TEXT}kept  2\n</code></pre>", f"{TEXT}kept  2\n</code></pre>"),
        (
            "<p>Curves, one a frame:\n    tint: of\n        sky: no\n    red, blue: 0</p>",
            "<p>Curves, one a frame:\n<br>tint: of\n        sky: no\n<br>red, blue: 0</p>",
        ),
        ("<p>Two lines:\nnote: one</p>", "<p>Two lines:\nnote: one</p>"),
    ],
    ids=["name", "path", "option", "block", "picture", "message", "table", "curves", "paragraph"],
)
def test_a_page_changes_where_it_must(page: str, changed: str) -> None:
    assert layout.on_post_page(page) == changed
