"""The types of rollforge reach the type checker of a plugin, also where rollforge is installed for editing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGIN = """
from rollforge.policies import CachePolicy
from rollforge.spec import ReadPlan, Step

class Mine(CachePolicy):
    def plan(self, step: Step) -> ReadPlan:
        return ReadPlan((), step.start)

    def live(self, start: int, block: int) -> frozenset[int]:
        return frozenset()

    def visible(self, block: int) -> str:
        return step_of(block)

def step_of(block: int) -> str:
    return Step.of(0, block).start
"""


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    line = [*map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.install
@pytest.mark.skipif(os.name == "nt", reason="the layout of the environment is that of POSIX")
def test_a_plugin_is_checked_against_the_types_of_an_editable_install(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "rollforge", source / "rollforge", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "import sys; from setuptools.build_meta import build_editable; build_editable(sys.argv[1])"
    built = run(sys.executable, "-c", build, tmp_path, cwd=source)
    assert built.returncode == 0, built.stderr
    assert run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path).returncode == 0
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (wheel,) = tmp_path.glob("rollforge-*.whl")
    zipfile.ZipFile(wheel).extractall(site)

    (tmp_path / "mine.py").write_text(PLUGIN)
    python = tmp_path / "venv" / "bin" / "python"
    checked = run(sys.executable, "-m", "mypy", "--python-executable", python, "--strict", "mine.py", cwd=tmp_path)
    errors = [line for line in checked.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 2, checked.stdout
    assert 'Return type "str" of "visible" incompatible with return type "int" in supertype' in errors[0]
    assert 'Incompatible return value type (got "int", expected "str")' in errors[1]
