"""The levels of published models, in rollouts from nothing and from a given first frame."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from rollforge_causal_forcing import CausalForcing, CausVid

from rollforge.policies import Window
from rollforge.testing import check_resume, check_sampler
from rollforge.testing.tiny import Rolls

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
FIRST = [1000.0, 937.5, 2500 / 3, 625.0]  # as the released program has shifted them


@pytest.mark.parametrize(
    ("sampler", "levels", "first"),
    [
        (CausalForcing(), FIRST, FIRST),
        (CausalForcing(2), [1000.0, 2500 / 3], FIRST),
        (CausalForcing(1), [1000.0], FIRST),
        (CausVid(), [1000.0, 757.0, 522.0], [1000.0, 757.0, 522.0]),
    ],
)
@pytest.mark.parametrize("given", [0, 1])
def test_every_block_is_made_at_the_released_levels(
    sampler: CausalForcing, levels: list[float], first: list[float], given: int
) -> None:
    rolls = Rolls(Window(20), sampler, block=1, blocks=5)
    passes: list[tuple[int, float]] = []
    rolls.backbone.register_forward_pre_hook(
        lambda _, asked: passes.append((asked[3].now.frames[0], float(asked[1].max())))
    )
    opening = torch.randn(1, 1, *rolls.backbone.spec.latent_shape) if given else None
    assert len(rolls.blocks_of(given=opening)) == 5
    for frame in range(5):
        noisy = [level for start, level in passes if start == frame and level > 0]
        expected = [] if frame < given else first if frame == given else levels
        assert len(noisy) == len(expected)
        assert all(math.isclose(one, other, rel_tol=1e-6) for one, other in zip(noisy, expected, strict=True))
    commits = Counter(start for start, level in passes if level == 0)
    assert commits == dict.fromkeys(range(4), 1)  # nothing reads the last


def test_the_samplers_pass_the_kit() -> None:
    check_sampler(CausalForcing(1))


def test_a_rollout_in_single_frames_resumes() -> None:
    check_resume(Window(20), CausalForcing(2), block=1, blocks=5)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda file: file.stem)
def test_a_config_names_what_fits_its_weights(config: Path) -> None:
    model = yaml.safe_load(config.read_text())["model"]
    kind = {"CausalForcing": CausalForcing, "CausVid": CausVid}[model["sampler"]["class_path"]]
    sampler = kind(**model["sampler"].get("init_args", {}))
    block = model["backbone"]["init_args"].get("block", 3)
    assert (model["policy"]["init_args"]["context_blocks"] + 1) * block == 21
    if "1.3b" in config.stem:
        steps = {"4step": 4, "2step": 2, "1step": 1, "i2v": 4, "1.3b": 3}
        assert len(sampler.timesteps) == steps[config.stem.split("-")[1]]
        assert (block == 1) == config.stem.startswith("frame")
