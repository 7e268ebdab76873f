"""Every part of the packages in ``plugins/`` passes its check as it is shipped; policies, samplers and networks do in
their packages' own tests."""

from __future__ import annotations

import sys
from inspect import signature
from pathlib import Path

import pytest
from packages import PACKAGES, importable, installed

from rollforge.cli import main
from rollforge.registry import Part, registry

KINDS = ("positions", "noise", "kv_codec", "combine", "attention", "finish", "conditioner", "dataset")


def needs(part: Part) -> bool:
    """Whether it cannot be built without arguments."""
    arguments = signature(part.load()).parameters.values()
    return any(each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD for each in arguments)


def test_small_parts_of_all_packages_pass_the_check_of_their_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", [*sys.path])
    importable()
    with installed(PACKAGES, tmp_path / "site"):
        parts = [
            part for kind in KINDS for part in registry().of(kind) if part.origin != "rollforge" and not needs(part)
        ]
        assert {part.kind for part in parts} >= {"positions", "noise", "kv_codec", "finish", "conditioner", "dataset"}
        codes = {part.name: main(["plugins", "check", part.name]) for part in parts}
    assert {name for name, code in codes.items() if code} == set(), capsys.readouterr().err
