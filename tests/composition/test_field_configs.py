"""The named combinations of ``configs/field``: Pocket rolls them, and those of Wan build all that needs no weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packages import installed
from test_matrix import ROLLED

import rollforge
from rollforge.commands.config_parts import parts_of
from rollforge.doctor.parts import OPTIONAL

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "field").glob("*.yaml"))
COMBINATIONS = [file for file in CONFIGS if "-on-" in file.stem]
METHODS = sorted((ROOT / "configs" / "field" / "methods").glob("*.yaml"))
POCKET = [file for file in COMBINATIONS if not file.stem.endswith("-1.3b")]
PROMPT = "a purple ball and a red box over grass at night"


@pytest.fixture(scope="module", autouse=True)
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with installed(ROLLED, tmp_path_factory.mktemp("site")):
        yield


def test_every_combination_is_there_for_both_models() -> None:
    assert {file.stem for file in POCKET} == {
        file.stem.removesuffix("-1.3b") for file in COMBINATIONS if file not in POCKET
    }
    assert len(POCKET) >= 4


@pytest.mark.parametrize("config", COMBINATIONS, ids=lambda file: file.stem)
def test_a_combination_builds_its_parts(config: Path) -> None:
    named = yaml.safe_load(config.read_text())["model"]
    with parts_of([str(config)]) as parts:
        for name in ("policy", "sampler", *(name for name in OPTIONAL if name in named)):
            assert type(parts.build(name)).__name__ == named[name]["class_path"]


@pytest.mark.parametrize("method", METHODS, ids=lambda file: file.stem)
def test_a_method_of_the_table_builds_its_parts(method: Path) -> None:
    named = yaml.safe_load(method.read_text())["model"]
    with parts_of([str(CONFIGS[0].parent / "table.yaml"), str(method)]) as parts:
        for name, part in named.items():
            assert type(parts.build(name)).__name__ == part["class_path"]
        assert parts.chosen.data.seconds == 52.5


@pytest.mark.parametrize("config", POCKET, ids=lambda file: file.stem)
def test_a_combination_rolls_on_pocket(config: Path) -> None:
    blocks = list(rollforge.load(config, "model.sampler.init_args.steps=1").roll(PROMPT, 0.75))
    assert len(blocks) >= 2
    assert all(bool(block.latents.isfinite().all()) for block in blocks)
