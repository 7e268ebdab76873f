"""The Python API pages: every public name is on one, and has a docstring; every kind is on the page of contracts."""

from __future__ import annotations

import inspect
import pkgutil
import re
from importlib import import_module
from pathlib import Path

import pytest

import rollforge
from rollforge.registry import BASES, BUILT_IN, KINDS, Part, registry

DOCS = Path(__file__).parents[2] / "docs"
SHOWN = re.findall(r"^::: ([\w.]+)$", "\n".join(page.read_text() for page in DOCS.glob("api/*.md")), re.MULTILINE)
PACKAGES = [
    name
    for _, name, package in pkgutil.walk_packages(rollforge.__path__, "rollforge.")
    if package and hasattr(import_module(name), "__all__")
]
NAMES = [(package, name) for package in PACKAGES for name in import_module(package).__all__]


def built_in(kind: str) -> list[Part]:
    return [part for part in registry().of(kind) if part.origin == BUILT_IN]


def test_every_public_package_is_on_one_page() -> None:
    assert set(PACKAGES) - {"rollforge.data.world"} <= set(SHOWN)  # the world of Pocket's clips
    assert len(SHOWN) == len(set(SHOWN))


@pytest.mark.parametrize(("package", "name"), NAMES, ids=[f"{package}.{name}" for package, name in NAMES])
def test_a_public_name_is_there_and_documented(package: str, name: str) -> None:
    value = getattr(import_module(package), name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert inspect.getdoc(value)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"dataset"}))
def test_a_package_exports_its_base_class_and_all_built_in_components_of_its_kind(kind: str) -> None:
    values = (getattr(import_module(package), name) for package, name in NAMES)
    public = {value for value in values if inspect.isclass(value)}
    module, _, name = BASES[kind].partition(":")
    in_a_module = {value for shown in SHOWN for value in vars(import_module(shown)).values() if inspect.isclass(value)}
    assert {getattr(import_module(module), name), *(part.load() for part in built_in(kind))} <= public | in_a_module


def test_every_kind_is_in_both_tables_of_contracts() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (DOCS / "contracts.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted([*KINDS, *KINDS])


def test_built_in_components_are_in_the_table_of_contracts() -> None:
    text = (DOCS / "contracts.md").read_text()
    nine = {part.name for part in built_in("metric")} - {"DriftSuite", "WorldTruth"}
    missing = {part.name for kind in KINDS for part in built_in(kind) if f"`{part.name}`" not in text}
    assert missing == nine
