"""Wheels of rollforge and of all methods, as a user installs them, with pinned versions; and tutorial 3 with them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forks import Forks
from packages import PACKAGES, PLUGINS
from page_blocks import blocks

from rollforge import __version__
from rollforge.video.reader import probe

ROOT = PLUGINS.parent
MODELS = {
    "rollforge-features",
    "rollforge-frames",
    "rollforge-inspect",
    "rollforge-motion",
    "rollforge-persistence",
    "rollforge-skyreels",
    "rollforge-upscale",
    "rollforge-vbench",
    "rollforge-wan22",
}
"""Packages that are no methods of the field: other models, and measures."""
FIELD = sorted(PACKAGES.keys() - MODELS)
TUTORIAL = ROOT / "docs" / "tutorials" / "03-your-own-policy.md"
ROLL = """
import importlib.metadata, json, runpy, sys
import torch
import rollforge
torch.set_num_threads(1)
script, quickstart, *configs = sys.argv[1:]

def command(*arguments):
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        assert not end.code, arguments

command("plugins")
command("predict", "--config", quickstart, "--data.seconds", "1", "--model.sampler.steps", "1", "--output_dir", "out")
rolled = {}
for config in configs:
    blocks = list(rollforge.load(config).roll("a red ball over snow at day", 0.75))
    rolled[config] = len(blocks) if all(bool(block.latents.isfinite().all()) for block in blocks) else "not finite"
versions = [rollforge.__version__, importlib.metadata.version("rollforge")]
print(json.dumps({"from": rollforge.__file__, "versions": versions, "rolled": rolled}))
"""
"""Runs the installed command, and rolls two blocks or more of each config, in one process."""


def extra() -> list[str]:
    """What ``rollforge[field]`` installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: list[str] = project["optional-dependencies"]["field"]
    return found


def configs(every: bool) -> list[str]:
    """The configs of the packages that roll Pocket: of each package the first, or every one."""
    of = [sorted((PACKAGES[name] / "configs").glob("*.yaml")) for name in FIELD]
    rolls = [[str(file) for file in files if "class_path: Pocket\n" in file.read_text()] for files in of]
    return [file for files in rolls for file in (files if every else files[:1])]


def environment(**variables: str) -> dict[str, str]:
    """An environment that does not see the repository."""
    hidden = ("PYTHONPATH", "ROLLFORGE_PLUGINS")
    every = {name: value for name, value in os.environ.items() if name not in hidden}
    return every | {"OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INDEX": "1", **variables}


def output(done: subprocess.CompletedProcess[str]) -> str:
    """Standard output of a command that must succeed."""
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run(*line: object, cwd: Path) -> str:
    """The output of a command."""
    how: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 600, "check": False}
    return output(subprocess.run([*map(str, line)], cwd=cwd, env=environment(), **how))


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own with torch and the like, into which the wheels are installed."""
    folder = tmp_path_factory.mktemp("field")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "env", cwd=folder)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    sources = folder / "sources"
    ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__", "tests", "outputs")
    for name in FIELD:
        shutil.copytree(PACKAGES[name], sources / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (sources / "rollforge").mkdir(exist_ok=True)
        shutil.copy(ROOT / name, sources / "rollforge" / name)
    shutil.copytree(ROOT / "rollforge", sources / "rollforge" / "rollforge", ignore=ignored)
    wheels = folder / "dist"
    wheels.mkdir()
    run(sys.executable, Path(__file__).parent / "build_wheels.py", wheels, *sorted(sources.iterdir()), cwd=folder)
    made = folder / "env" / "bin" / "python"
    (made.parent / "pip").write_text(f"#!/bin/sh\nexec '{made}' -m pip \"$@\"\n")
    (made.parent / "pip").chmod(0o755)
    pip = (sys.executable, "-m", "pip", "--python", made, "install", "--quiet", "--find-links", wheels)
    run(*pip, "--ignore-installed", "--no-deps", "rollforge", cwd=folder)
    run(*pip, "--no-compile", "--constraint", ROOT / "constraints.txt", "rollforge[field]", cwd=folder)
    return made


@pytest.fixture(scope="module")
def installed(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Processes of that environment, which imports torch and Lightning once."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - environment().keys():
            patch.delenv(name)
        made = Forks(tmp_path_factory.mktemp("installed"), python)
        assert made.folder
    yield made
    made.close()


def test_the_extra_names_every_package() -> None:
    assert extra() == FIELD


@pytest.mark.install
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.matrix)], ids=["one each", "every"])
def test_the_extra_installs_every_package_and_their_configs_roll(
    python: Path, installed: Forks, tmp_path: Path, every: bool
) -> None:
    (tmp_path / "roll.py").write_text(ROLL)
    arguments = (python.parent / "rollforge", ROOT / "configs" / "quickstart.yaml", *configs(every))
    env = environment(PYTHONPATH=str(tmp_path))
    *listed, last = output(installed.run("-m", "roll", *map(str, arguments), cwd=tmp_path, env=env)).splitlines()
    origins = {" ".join(line.split()[1:3]) for line in listed if line.startswith("  ")}
    assert {f"{name} 0.1.0" for name in FIELD} <= origins
    found: dict[str, Any] = json.loads(last)
    assert Path(found["from"]).is_relative_to(python.parents[1])
    assert found["versions"] == [__version__, __version__]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["rollforge"] == __version__
    assert [probe(tmp_path / "out" / video["file"]).frames for video in manifest["videos"]] == [8, 8]
    assert {Path(config).parents[1].name for config in found["rolled"]} == set(FIELD)
    assert {config: made for config, made in found["rolled"].items() if made not in range(2, 7)} == {}


@pytest.mark.install
@pytest.mark.parametrize("complete", [False, pytest.param(True, marks=pytest.mark.matrix)], ids=["install", "complete"])
def test_a_reader_of_tutorial_3_has_an_installed_plugin(
    python: Path, installed: Forks, tmp_path: Path, complete: bool
) -> None:
    pasted = [(block.language, block.title, block.code) for _, _, block in blocks(TUTORIAL.read_text())]
    if not complete:  # what follows the installation is run with the other pages
        pasted = pasted[: 1 + next(n for n, (*_, code) in enumerate(pasted) if "pip install" in code)]
    (tmp_path / "blocks.json").write_text(json.dumps(pasted))
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    path = os.pathsep.join([str(python.parent), os.environ["PATH"]])
    # 0 is how pip is told `--no-build-isolation`: there is no index to take setuptools from.
    variables = {"PATH": path, "PIP_NO_BUILD_ISOLATION": "0", "ROLLFORGE_PLUGINS": "thinned"}
    pasting = environment(**variables, PYTHONPATH=str(ROOT / "tests" / "helpers"))
    printed = output(installed.run("-m", "paste", "blocks.json", cwd=tmp_path, env=pasting))
    assert "block 31 reads the blocks [0, 16, 20, 24, 28, 30], and begins at time 18" in printed
    listed = output(installed.run("-m", "rollforge", "plugins", cwd=tmp_path, env=environment(**variables)))
    assert ["Thinned", "rollforge-thinned", "0.1.0"] in [line.split()[:3] for line in listed.splitlines()]
