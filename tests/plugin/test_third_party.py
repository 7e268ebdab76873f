"""A package that knows rollforge only from outside: built, installed, and used from a YAML by short names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
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


def pip(*arguments: object, cwd: Path) -> None:
    """A call of pip that must succeed."""
    line = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the package's wheel is installed into."""
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(Path(__file__).parent / "package", folder / "source")
    offline = ("--no-deps", "--no-index")
    pip("wheel", "--no-build-isolation", *offline, "-w", folder / "wheels", source, cwd=folder)
    (wheel,) = (folder / "wheels").glob("rollforge_wobble-0.3.1-*.whl")
    pip("install", *offline, "--target", folder / "site", wheel, cwd=folder)
    return folder / "site"


@pytest.fixture
def rollforge(installed: Path, tmp_path: Path, forks: Forks) -> Callable[..., str]:
    """A process with the package, which must succeed; gives its standard output."""
    path = os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH", "")]))

    def run(*arguments: str, **env: str) -> str:
        every = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **env}
        done = forks.run("-m", "rollforge", *arguments, cwd=tmp_path, env=every)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_a_yaml_names_its_policy_and_its_backbone_and_a_video_comes_out(
    rollforge: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "wobble.yaml").write_text(yaml.safe_dump(CONFIG))
    rollforge("predict", "--config", "wobble.yaml")
    out = tmp_path / "outputs" / "wobble"
    (video,) = out.glob("*.mp4")
    assert probe(video).frames == 24
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["complete"] is True
    assert manifest["videos"][0]["policy"] == "Wobble"
    resolved = yaml.safe_load((out / "config.yaml").read_text())["model"]
    assert resolved["policy"] == {"class_path": "rollforge_wobble.Wobble", "init_args": {"reach": 2}}
    assert resolved["backbone"] == {"class_path": "rollforge_wobble.Fade", "init_args": {"strength": 0.4}}


def test_plugins_names_its_distribution(rollforge: Callable[..., str]) -> None:
    lines = rollforge("plugins").splitlines()
    assert [" ".join(line.split()) for line in lines if "rollforge-wobble 0.3.1" in line] == [
        "Fade rollforge-wobble 0.3.1 Attends over what the policy shows it and pulls every frame towards the mean.",
        "Wobble rollforge-wobble 0.3.1 Sees the block before it and, every other time, the one before that.",
    ]
    assert "wobble" not in rollforge("plugins", ROLLFORGE_PLUGINS="")
