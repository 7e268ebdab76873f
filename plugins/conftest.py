"""Shared by the tests of all packages: each is importable, and installed for the tests that ask for it.

A test that names its part in a config, or runs a command, takes the fixture ``installed``::

    pytestmark = pytest.mark.usefixtures("installed")
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PLUGINS = Path(__file__).parent
sys.path.insert(0, str(PLUGINS.parent / "tests" / "helpers"))

import packages  # noqa: E402 # now that it can be found
from small import not_enlarged, one_thread  # noqa: E402, F401 # fixtures are used by being here

packages.importable()


@pytest.fixture
def installed(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The entry points of the test's package, as pip would write them, and no others; no cached text features."""
    name = request.path.relative_to(PLUGINS).parts[0]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with packages.installed([name], tmp_path / "site"):
        yield
