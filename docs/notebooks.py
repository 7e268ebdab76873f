"""Writes each tutorial as a notebook next to its page, when the site is built."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jupytext

HEADER = "---\njupyter:\n  kernelspec: {name: python3, display_name: Python 3, language: python}\n---\n"
TITLED = re.compile(r'^```\w+ +title="([^"]+)"\n', re.MULTILINE)
OUTPUT = re.compile(r"(?<=^```\n)\n```text\n.*?^```\n", re.MULTILINE | re.DOTALL)
SKIPPED = re.compile(r'^<!--- skip: next "([^"]+)" -->\n\n```\w+\n', re.MULTILINE)
NOTE = re.compile(r'^(?:!!!|\?\?\?) \w+ "([^"]+)"\n((?:(?: {4}.*)?\n)+)', re.MULTILINE)


def notebook(page: str) -> Any:
    """A tutorial as a notebook: files become ``%%writefile`` cells, commands ``%%bash`` cells, outputs are left out.

    Code that the page only shows is no cell.
    """
    page = SKIPPED.sub(r"Not run here, since it \1:\n\n```text\n", OUTPUT.sub("", page))
    page = TITLED.sub(r"```python\n%%writefile \1\n", page)
    page = NOTE.sub(lambda found: f"**{found[1]}**\n\n" + re.sub(r"^ {4}", "", found[2], flags=re.MULTILINE), page)
    return jupytext.reads(HEADER + page, fmt="md")


def on_post_build(config: Any) -> None:
    """Called by MkDocs."""
    for page in sorted((Path(config.docs_dir) / "tutorials").glob("[0-9]*.md")):
        target = Path(config.site_dir) / "tutorials" / f"{page.stem}.ipynb"
        jupytext.write(notebook(page.read_text()), target, fmt="ipynb")
