"""``rollforge plugins new``: for every kind a package that installs, is listed, and passes the kit."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from forks import Forks

from rollforge.cli import main
from rollforge.commands.config_parts import parts_of
from rollforge.commands.new_plugin import create, part_name, rendered
from rollforge.registry import KINDS, registry
from rollforge.spec import ModelSpec

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "plugins.md"
QUICKSTART = ROOT / "configs" / "quickstart.yaml"
SPEC = ModelSpec(2, 4, 2, (2, 2), 1, 1, 4, 2, 6, 6, 4.0)


def install(packages: Iterable[Path], site: Path) -> None:
    """Builds and installs packages into a folder."""
    offline = ("--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--disable-pip-version-check")
    line = [sys.executable, "-m", "pip", "install", *offline, "--target", str(site), *map(str, packages)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr


def show(package: Path, site: Path) -> None:
    """Makes a package appear as installed in a folder, without building it."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    name, version = project["name"], project["version"]
    module = name.replace("-", "_")
    (site / module).symlink_to(package / module)
    info = site / f"{module}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    points = [f"{key} = {value}\n" for key, value in project["entry-points"]["rollforge"].items()]
    (info / "entry_points.txt").write_text("".join(["[rollforge]\n", *points]))


@pytest.mark.install
@pytest.mark.parametrize("built", [["noise"], pytest.param([*KINDS], marks=pytest.mark.matrix)], ids=["one", "all"])
def test_a_new_package_of_every_kind_installs_is_listed_and_passes_its_test(
    built: list[str], tmp_path: Path, forks: Forks
) -> None:
    names = {kind: f"my-{kind.replace('_', '-')}" for kind in KINDS}
    for kind, name in names.items():
        assert main(["plugins", "new", name, "--kind", kind, "--folder", str(tmp_path)]) == 0
    packages = {kind: tmp_path / f"rollforge-{name}" for kind, name in names.items()}
    assert sorted(tmp_path.glob("rollforge-*")) == sorted(packages.values())
    site = tmp_path / "site"
    install([packages[kind] for kind in built], site)
    for kind in packages.keys() - set(built):
        show(packages[kind], site)

    def run(*arguments: object) -> Any:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(site)}
        return forks.run("-m", *map(str, arguments), cwd=tmp_path, env=env)

    listed = run("rollforge", "plugins")
    rows = [line.split()[:2] for line in listed.stdout.splitlines() if line.startswith("  ")]
    assert "Plugin problem" not in listed.stderr
    for name in names.values():
        assert [part_name(name), f"rollforge-{name}"] in rows

    tested = run("pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", *packages.values())
    assert tested.returncode == 0, tested.stdout
    assert f"{len(packages)} passed" in tested.stdout
    checked = run("rollforge", "plugins", "check", "MyNoise")
    assert checked.stdout == "MyNoise (noise, from rollforge-my-noise 0.1.0) passes the check of its kind.\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Soft Sink", "lower-case letters"),
        ("1st", "lower-case letters"),
        ("class", "lower-case"),
        ("here", "is there already"),
    ],
)
def test_a_name_that_cannot_be_is_one_sentence(
    tmp_path: Path, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    create("here", "noise", tmp_path)
    assert main(["plugins", "new", name, "--kind", "noise", "--folder", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert [each.name for each in tmp_path.iterdir()] == ["rollforge-here"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_config_of_a_new_package_names_its_part(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = create(f"own-{kind.replace('_', '-')}", kind, tmp_path)
    (site := tmp_path / "site").mkdir()
    show(package, site)
    monkeypatch.syspath_prepend(str(site))
    registry.cache_clear()
    try:
        with parts_of([str(QUICKSTART), str(package / "config.yaml")]) as parts:
            part = registry().find(part_name(package.name))
            made = parts.named(part)
            made = made(SPEC, 9) if kind == "memory" else made  # a config names what makes memories
            assert type(made) is part.load()
            assert parts.named(registry().find("Sdpa")) is None
    finally:
        registry.cache_clear()


@pytest.mark.parametrize("kind", KINDS)
def test_the_docs_show_what_is_written(kind: str) -> None:
    content = dict(rendered("example", kind))
    section = DOCS.read_text().partition(f"### Example: {kind}\n")[2].partition("\n### ")[0]
    for path in (f"rollforge_example/{kind}.py", "tests/test_rollforge_example.py", "config.yaml"):
        assert content[path].strip() in section, path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["IdentityKVCodec"], "IdentityKVCodec (kv_codec, from rollforge) passes"),
        (["PocketText"], "PocketText (conditioner, from rollforge) passes"),
    ],
)
def test_check_says_what_passes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "check", *arguments]) == 0
    assert capsys.readouterr().out.startswith(message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Wan"], "Wan has 1,4"),
        (["FixedNoise"], "FixedNoise needs arguments"),
        (["IndependentNoise", "--tolerance", "1"], "The check of a noise takes no --tolerance"),
        (["IndependentNoise", "--folder", "x"], "unrecognized arguments"),
        (["Nothing"], "There is no part called 'Nothing'"),
    ],
)
def test_check_says_what_it_cannot_do(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "check", *arguments]) == 2
    assert message in capsys.readouterr().err


def small(**model: Any) -> dict[str, Any]:
    """The config of a small model."""
    sizes = {"dim": 32, "layers": 1, "heads": 2, "ffn_dim": 64, "window": 6, "horizon": 6, "weights": "random"}
    parts: dict[str, Any] = {
        "backbone": {"class_path": "Pocket", "init_args": sizes},
        "conditioner": {"class_path": "PocketText"},
        "codec": {"class_path": "PocketCodec", "init_args": {"width": 16, "weights": "random"}},
        "policy": {"class_path": "Window", "init_args": {"context_blocks": 1}},
        "sampler": {"class_path": "Euler", "init_args": {"steps": 1, "guidance": 2.0}},
    }
    return {"model": parts | model, "data": {"prompts": ["a red ball over snow at day"], "seconds": 3}}


def test_check_takes_a_part_from_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small()))
    assert main(["plugins", "check", "Pocket", "--config", str(tmp_path / "small.yaml")]) == 0
    assert capsys.readouterr().out.startswith("Pocket (backbone, from rollforge) passes")
    assert main(["plugins", "check", "RollingSink", "--config", str(tmp_path / "small.yaml")]) == 2
    assert "The config names no RollingSink" in capsys.readouterr().err


def test_bench_times_the_model_of_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small()))
    config = ["--config", str(tmp_path / "small.yaml")]
    assert main(["bench", *config, "--blocks", "3", "--model.sampler.init_args.steps", "2"]) == 0
    rows = [line.split(" | ")[:3] for line in capsys.readouterr().out.splitlines() if line.startswith("| small")]
    assert rows == [["| small", "Window", "2 of 3"]]
    assert main(["bench", *config, "--model", "pocket"]) == 2
    assert main(["bench", "--steps", "3"]) == 2
