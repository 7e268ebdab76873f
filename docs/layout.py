"""Makes pages readable on narrow screens: pictures open at full size, long names in code break where they may."""

from __future__ import annotations

import re
from typing import Any

PICTURE = re.compile(r'<img [^>]*?src="([^"]+)"[^>]*>')
INLINE = re.compile(r"<code>([^<\n]+)</code>")
OPTION = re.compile(r"(?<![^\s\[])(--?\w[\w-]*)")
LONG = re.compile(r"(?<![-\w])[^\s&-]{17,}")
JOINT = re.compile(r"(::|[/._=(,])(?=\w)")
CURVES = re.compile(r'<p>Curves, .*?</p>|<details class="(?:curves|whole-video)".*?</details>', re.DOTALL)
CURVE = re.compile(r"(?<=\n)(?: {4})?(?=\w+(?:, \w+)*: )")
TEXT = re.compile(r'<div class="language-text highlight">(<pre><span></span><code>[^<|]*</code></pre>)')
COLUMNS = re.compile(r"\S {2,}\S")


def breakable(code: str) -> str:
    """Inline code whose options stay whole, and whose long names may break after a joint and nowhere else."""
    code = LONG.sub(lambda name: JOINT.sub(r"\1<wbr>", name[0]), code)
    return OPTION.sub(r'<span class="option">\1</span>', code)


def one_a_line(section: str) -> str:
    """The section of a metric's docstring that says what its curves are, with a line for each of them."""
    return CURVE.sub("<br>", section)


def message(block: re.Match[str]) -> str:
    """An output without columns, whose lines may be broken on any screen."""
    return block[0] if COLUMNS.search(block[1]) else f'<div class="language-text highlight message">{block[1]}'


def on_post_page(output: str, **_: Any) -> str:
    """Called by MkDocs, after the page has entered the search index."""
    output = INLINE.sub(lambda found: f"<code>{breakable(found[1])}</code>", output)
    output = TEXT.sub(message, output)
    output = CURVES.sub(lambda found: one_a_line(found[0]), output)
    return PICTURE.sub(r'<a class="picture" href="\1">\g<0></a>', output)
