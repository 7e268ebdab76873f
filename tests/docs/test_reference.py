"""The tables of keys in docs/reference.md have every argument of the code, with its default."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from rollforge.lightning.data import RolloutData
from rollforge.lightning.module import RolloutModule
from rollforge.snapshots.settings import Snapshots

TEXT = (Path(__file__).parents[2] / "docs" / "reference.md").read_text()
UNSET = {None: ("none", "null"), False: ("false",), True: ("true",)}


def table(title: str) -> dict[str, list[str]]:
    """The rows of the first table under a heading, by key; cells without backticks."""
    section = TEXT.split(f"\n### {title}\n", 1)[1].split("|---|", 1)[1].split("\n\n", 1)[0]
    rows = [line.strip("| ").replace("`", "").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return {row[0]: row[1:] for row in rows}


@pytest.mark.parametrize(("title", "kind"), [("snapshots", Snapshots), ("data", RolloutData), ("model", RolloutModule)])
def test_a_table_of_keys_has_every_argument(title: str, kind: type) -> None:
    assert table(title).keys() == inspect.signature(kind).parameters.keys()


@pytest.mark.parametrize(("title", "kind"), [("snapshots", Snapshots), ("data", RolloutData)])
def test_a_default_in_a_table_is_that_of_the_code(title: str, kind: type) -> None:
    for name, parameter in inspect.signature(kind).parameters.items():
        shown, default = table(title)[name][0], parameter.default
        if isinstance(default, (int, float)) and not isinstance(default, bool):
            assert float(shown) == default, name
        elif isinstance(default, str):
            assert shown == default, name
        elif default != () and shown != "all":  # of several prompts
            assert shown in UNSET[default], name
