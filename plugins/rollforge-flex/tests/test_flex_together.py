"""All parts together under every policy, interrupted and resumed; and the configs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from brute import check_resume
from packages import installed
from rollforge_flex import AntiphaseNoise, FlexRope, InferenceSink, SANNoise
from toy_backbone import BLOCK, Toy, condition

import rollforge
from rollforge.cli import main
from rollforge.policies import AttentionSink, CachePolicy, LongLive, RollingSink, SlidingIndices, Window
from rollforge.positions import Rope
from rollforge.rollout import Rollout
from rollforge.samplers import Euler

CONFIGS = Path(__file__).parents[1] / "configs"
POLICIES = [Window(2), AttentionSink(3, 1), SlidingIndices(3, 1), RollingSink(3, 2), LongLive(3, 1)]
SAMPLER = Euler(steps=2, shift=1.0)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda each: type(each).__name__)
def test_an_interrupted_rollout_with_all_parts_equals_an_uninterrupted_one(policy: CachePolicy) -> None:
    backbone = Toy(positions=FlexRope(2, 2))
    parts = Rollout(backbone, InferenceSink(policy, 3), SAMPLER, noise=AntiphaseNoise())
    check_resume(parts, condition(0), 7 * BLOCK)


def test_each_part_changes_the_video_and_only_past_the_first_frames() -> None:
    def video(policy: CachePolicy, **parts: object) -> torch.Tensor:
        rollout = Rollout(Toy(positions=Rope()), policy, SAMPLER, **parts)  # type: ignore[arg-type]
        return torch.cat([block.latents for block in rollout(condition(0), 8 * BLOCK)], dim=1)

    plain = video(Window(3))
    changed = {
        4 * BLOCK: video(InferenceSink(Window(3), 2)),  # the first block of which frame 0 has left the window
        3 * BLOCK: video(Window(3), positions=FlexRope(2, 2, horizon=6)),
        1: video(Window(3), noise=AntiphaseNoise()),
        0: video(Window(3), noise=SANNoise()),
    }
    for first, other in changed.items():
        whole = first // BLOCK * BLOCK  # frames of a block attend to each other
        assert torch.equal(other[:, :whole], plain[:, :whole])
        assert not torch.allclose(other[:, whole : whole + BLOCK], plain[:, whole : whole + BLOCK], atol=1e-4)
    unchanged = video(Window(3), noise=AntiphaseNoise(rho=0), positions=FlexRope(2, 2, horizon=100))
    assert torch.equal(unchanged, plain)


@pytest.mark.parametrize(
    ("name", "parts"),
    [("flex", (InferenceSink, FlexRope, AntiphaseNoise)), ("san", (Window, Rope, SANNoise))],
)
def test_config_rolls_pocket_with_the_parts_that_it_names(name: str, parts: tuple[type, ...], tmp_path: Path) -> None:
    with installed(["rollforge-flex"], tmp_path):
        pipeline = rollforge.load(CONFIGS / f"{name}.yaml")
    assert (type(pipeline.policy), type(pipeline.positions), type(pipeline.noise)) == parts
    blocks = [block.latents for block in pipeline.roll("a red ball over grass at day", seconds=0.75)]
    assert len(blocks) == 2
    assert 0.1 < torch.cat(blocks, dim=1).std() < 3


def test_configs_of_single_parts_name_them_as_the_config_of_all_does() -> None:
    models = {file.stem: yaml.safe_load(file.read_text())["model"] for file in CONFIGS.glob("*.yaml")}
    alone = {"rope": "positions", "antiphase": "noise", "sink": "policy"}
    assert models.keys() == {"flex", "san", *alone}
    for name, part in alone.items():
        assert models[name][part] == models["flex"][part]
        assert models[name].keys() - models["flex"].keys() == set()
        assert {"positions", "noise"} & models[name].keys() == {part} - {"policy"}


def test_a_config_that_wraps_a_policy_is_checked_inside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = "--model.policy.init_args.policy.init_args.context_blocks=0"
    with installed(["rollforge-flex"], tmp_path / "site"):
        code = main(["predict", "--config", str(CONFIGS / "sink.yaml"), wrong, "--output_dir", str(tmp_path / "out")])
    printed = capsys.readouterr().err
    assert code == 2
    assert "context_blocks must be a whole number of 1 or more, not 0" in printed
    assert "Traceback" not in printed
