"""The code blocks of a docs page, run in order in a clean folder: what Sybil is given to parse and to evaluate.

A page is plain markdown:

- a ``python`` block runs in the namespace of the page, and a last expression is shown as in a notebook;
- a ``bash`` block runs in a shell that stops at the first failure;
- a block with ``title="name"`` is a file, written into the folder;
- a ``text`` block right after one that runs is its output, where ``...`` stands for anything; of numbers with a decimal
  point a tenth may be missing, since processors round differently and long rollouts carry that on;
- ``<!--- skip: next "reason" -->`` before a block leaves it out.

With ``ROLLFORGE_DOCS_REFRESH=1`` outputs and pictures are written into the page in place of being compared.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from doctest import ELLIPSIS, OutputChecker
from pathlib import Path

from sybil import Document, Example, Region

ROOT = Path(__file__).parents[2]
REFRESH = bool(os.environ.get("ROLLFORGE_DOCS_REFRESH"))
BLOCK = re.compile(
    r'^```(?P<language>python|bash|yaml|toml)(?: +title="(?P<title>[^"]+)")?\n(?P<code>.*?)^```\n'
    r"(?:\n```text\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
NUMBER = re.compile(r"-?\d+\.\d+(?:e[-+]?\d+)?")
TOLERANCE = 0.1
# What a page installs goes into its folder, from no index; 0 is how pip is told `--no-build-isolation`.
INSTALLED = "installed"
PIP = {"PIP_TARGET": INSTALLED, "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


@dataclass(frozen=True)
class Block:
    """A code block and the output that the page shows under it; None where it shows none."""

    language: str
    code: str
    title: str | None
    output: str | None
    line: int

    @property
    def runs(self) -> bool:
        """Whether it is code to run, or a file to write."""
        return self.title is not None or self.language in ("python", "bash")


def blocks(text: str) -> Iterator[tuple[int, int, Block]]:
    """Every block of a page that runs, with where it begins and ends."""
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        block = Block(found["language"], found["code"], found["title"], found["output"], line)
        if block.runs:
            yield found.start(), found.end(), block


def parse(document: Document) -> Iterator[Region]:
    """The regions that Sybil evaluates."""
    for start, end, block in blocks(document.text):
        yield Region(start, end, block, evaluate)


def evaluate(example: Example) -> str | None:
    """Runs one block. Returns what is wrong with its output, as Sybil expects it."""
    block: Block = example.parsed
    folder: Path = example.namespace["__folder__"]
    with contextlib.chdir(folder):
        if block.title is not None:
            _write(folder / block.title, block.code)
            return None
        printed = _python(block, example) if block.language == "python" else _shell(block, example)
    if block.output is None or alike(_lines(block.output), _lines(printed)):
        return None
    if REFRESH:
        example.namespace.setdefault("__refreshed__", []).append((example.start, example.end, block, printed))
        return None
    return f"The page shows\n{block.output}\nbut this was printed:\n{printed}\n`make docs-refresh` writes it again."


def alike(shown: str, printed: str) -> bool:
    """Whether a text is the one that is shown."""
    numbers = [[float(found) for found in NUMBER.findall(text)] for text in (shown, printed)]
    if OutputChecker().check_output(shown, printed, ELLIPSIS):
        return True
    if NUMBER.sub("#", shown).split() != NUMBER.sub("#", printed).split():
        return False
    return all(abs(one - other) <= TOLERANCE * max(1.0, abs(one)) for one, other in zip(*numbers, strict=True))


def refreshed(text: str, changes: list[tuple[int, int, Block, str]]) -> str:
    """A page with the outputs that were printed in place of those that it showed."""
    for start, end, _, printed in sorted(changes, key=lambda change: -change[0]):
        before = text[start:end].split("\n```text\n")[0]
        text = f"{text[:start]}{before}\n```text\n{_lines(printed)}```\n{text[end:]}"
    return text


def shell_environment(programs: Path | None) -> dict[str, str]:
    """The variables of a page's commands, which are first looked for in ``programs``."""
    folders = (programs, Path(sys.executable).parent, os.environ.get("PATH"))
    path = os.pathsep.join(str(each) for each in folders if each)
    paths = os.pathsep.join(filter(None, [INSTALLED, str(ROOT), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PATH": path, "PYTHONPATH": paths, "COLUMNS": "120"} | PIP


def _write(file: Path, code: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(code)


def _python(block: Block, example: Example) -> str:
    """Runs statements in the namespace of the page. Returns what they printed, and the value of a last expression."""
    tree = ast.parse(block.code)
    ast.increment_lineno(tree, block.line)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    name = example.path
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, name, "exec"), example.namespace)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), name, "eval"), example.namespace)
            if value is not None:
                printed.write(f"{value!r}\n")
    return printed.getvalue()


def _shell(block: Block, example: Example) -> str:
    """Runs commands. Returns what they printed; raises with what they wrote to standard error if one fails."""
    environment = shell_environment(example.namespace.get("__programs__"))
    command = ["bash", "-euo", "pipefail", "-c", block.code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise AssertionError(f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def _lines(text: str) -> str:
    """Without spaces at the ends of lines, and with one line break at the end."""
    kept = "\n".join(line.rstrip() for line in text.strip("\n").split("\n"))
    return f"{kept}\n" if kept else ""
