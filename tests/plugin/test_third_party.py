"""A package that knows rollforge only from outside: built, installed, and used from a YAML by short names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from forks import Forks

from rollforge.video.reader import probe

pytestmark = pytest.mark.install

CONFIG = {
    "model": {
        "backbone": {"class_path": "Fade", "init_args": {"strength": 0.4}},
        "conditioner": {"class_path": "PocketText"},
        "codec": {"class_path": "PocketCodec", "init_args": {"width": 16, "weights": "random"}},
        "policy": {"class_path": "Wobble", "init_args": {"reach": 2}},
        "sampler": {"class_path": "Euler", "init_args": {"steps": 2}},
    },
    "data": {"prompts": ["a red ball over snow at day"], "seconds": 3},
}


def python(*arguments: object, cwd: Path, **env: str) -> str:
    """Standard output of a python that must succeed."""
    line = [sys.executable, *map(str, arguments)]
    every = {**os.environ, "OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **env}
    done = subprocess.run(line, cwd=cwd, env=every, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the package's wheel is installed into."""
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(Path(__file__).parent / "package", folder / "source")
    offline = ("--no-deps", "--no-index")
    python("-m", "pip", "wheel", "--no-build-isolation", *offline, "-w", folder / "wheels", source, cwd=folder)
    (wheel,) = (folder / "wheels").glob("rollforge_wobble-0.3.1-*.whl")
    python("-m", "pip", "install", *offline, "--target", folder / "site", wheel, cwd=folder)
    return folder / "site"


def path(installed: Path) -> str:
    return os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH", "")]))


def test_a_yaml_names_its_policy_and_its_backbone_and_a_video_comes_out(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "wobble.yaml").write_text(yaml.safe_dump(CONFIG))
    python("-m", "rollforge", "predict", "--config", "wobble.yaml", cwd=tmp_path, PYTHONPATH=path(installed))
    out = tmp_path / "outputs" / "wobble"
    (video,) = out.glob("*.mp4")
    assert probe(video).frames == 24
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["complete"] is True
    assert manifest["videos"][0]["policy"] == "Wobble"
    resolved = yaml.safe_load((out / "config.yaml").read_text())["model"]
    assert resolved["policy"] == {"class_path": "rollforge_wobble.Wobble", "init_args": {"reach": 2}}
    assert resolved["backbone"] == {"class_path": "rollforge_wobble.Fade", "init_args": {"strength": 0.4}}


def test_plugins_names_its_distribution(installed: Path, tmp_path: Path, forks: Forks) -> None:
    def plugins(**env: str) -> str:
        every = {**os.environ, "PYTHONPATH": path(installed), **env}
        done = forks.run("-m", "rollforge", "plugins", cwd=tmp_path, env=every)
        assert done.returncode == 0, done.stderr
        return done.stdout

    parts = [" ".join(line.split()) for line in plugins().splitlines() if "rollforge-wobble 0.3.1" in line]
    assert parts == [
        "Fade rollforge-wobble 0.3.1 Attends over what the policy shows it and pulls every frame towards the mean.",
        "Wobble rollforge-wobble 0.3.1 Sees the block before it and, every other time, the one before that.",
    ]
    assert "wobble" not in plugins(ROLLFORGE_PLUGINS="")
