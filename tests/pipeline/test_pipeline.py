"""A pipeline from a config or from components: the clips are those of the command line, and can be shown."""

from __future__ import annotations

import re
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small import MODEL, one_thread  # noqa: F401 - a fixture is used by being here

import rollforge
from rollforge.budget import budget_check
from rollforge.cli import main
from rollforge.errors import UserError
from rollforge.evaluation import measure
from rollforge.lightning.module import RolloutModule
from rollforge.metrics.flicker import Flicker
from rollforge.pipeline import Pipeline
from rollforge.policies import Window
from rollforge.video.reader import frames

ONE, OTHER = "a red ball over snow at day", "a blue box over sand at night"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "small.yaml"
    trainer = {"accelerator": "cpu"}
    file.write_text(yaml.safe_dump({"model": MODEL, "data": {"prompts": [ONE], "seconds": 2}, "trainer": trainer}))
    return file


def test_clips_are_those_of_predict(config: Path, tmp_path: Path) -> None:
    """The saved file too, byte for byte; the caller's random numbers stay as they were."""
    out = tmp_path / "out"
    assert main(["predict", "--config", str(config), "--output_dir", str(out)]) == 0
    torch.manual_seed(123)
    before = torch.get_rng_state()
    clips = rollforge.load(config).generate([ONE, OTHER], seconds=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert [clip.prompt for clip in clips] == [ONE, OTHER]
    (made,) = out.glob("000-*.mp4")
    assert clips[0].save(tmp_path / "a.mp4").read_bytes() == made.read_bytes()


def test_overrides_are_those_of_the_command_line(config: Path) -> None:
    loaded = rollforge.load(
        config, "model.policy=Window", "--model.sampler.init_args.guidance=3", "trainer.precision=bf16-true"
    )
    assert isinstance(loaded, Pipeline)
    assert type(loaded.policy) is Window
    assert vars(loaded.sampler)["guidance"] == 3
    assert next(loaded.backbone.parameters()).dtype == torch.bfloat16
    assert not any(weight.requires_grad for weight in loaded.backbone.parameters())


def test_checkpoint_of_fit_gives_the_weights(config: Path, tmp_path: Path) -> None:
    loaded = rollforge.load(config)
    parts: dict[str, Any] = {
        name: getattr(loaded, name) for name in ("backbone", "conditioner", "codec", "policy", "sampler")
    }
    module = RolloutModule(**parts)
    with torch.no_grad():
        for weight in module.backbone.parameters():
            weight.fill_(0.25)
    torch.save({"state_dict": module.state_dict(), "pytorch-lightning_version": "2.5.0"}, tmp_path / "a.ckpt")
    again = rollforge.load(config, f"ckpt_path={tmp_path / 'a.ckpt'}")
    assert all(bool((weight == 0.25).all()) for weight in again.backbone.parameters())


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model.polycy=Window"], "polycy"),
        (["model.policy=Nothing"], "Nothing"),
        (["model.policy=os.system"], "os.system"),
        (["trainer.accelerator=tpus"], "trainer"),
    ],
)
def test_what_the_command_line_refuses_is_refused(config: Path, overrides: list[str], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        rollforge.load(config, *overrides)


def test_only_the_caller_trusts(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_policy.py").write_text("from rollforge.policies import Window\nclass Own(Window): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="--trust own_policy"):
        rollforge.load(config, "model.policy=own_policy.Own")
    assert type(rollforge.load(config, "model.policy=own_policy.Own", trust=["own_policy"]).policy).__name__ == "Own"


def test_budget_is_checked_before_anything_is_rolled(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = rollforge.load(config)
    monkeypatch.setattr(budget_check, "free_memory", lambda device: 1000)
    monkeypatch.setattr(budget_check, "bytes_on", lambda device, held: 0)
    monkeypatch.setattr(loaded.backbone, "forward", None)
    with pytest.raises(UserError, match="does not fit into memory"):
        loaded.roll(ONE, 2)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"prompts": [], "seconds": 1}, "nothing to generate"),
        ({"prompts": ONE, "seconds": 0}, "positive number of seconds"),
        ({"prompts": ONE, "seconds": float("nan")}, "positive number of seconds"),
        ({"prompts": "a zebra over snow", "seconds": 1}, "zebra"),
    ],
)
def test_wrong_arguments_are_said(config: Path, arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        rollforge.load(config).generate(**arguments)


def test_random_weights_that_nobody_asked_for_are_refused(config: Path) -> None:
    with pytest.raises(UserError, match="has random weights"):
        rollforge.load(config, "model.codec.init_args.weights=null").roll(ONE, 1)


def test_clip_shows_itself_and_is_measured(config: Path, tmp_path: Path) -> None:
    clips = rollforge.load(config).generate([f"{ONE}"], seconds=1)
    page = clips._repr_html_()
    (content,) = re.findall(r'src="data:video/mp4;base64,([^"]+)"', page)
    (tmp_path / "shown.mp4").write_bytes(b64decode(content))
    assert sum(1 for _ in frames(tmp_path / "shown.mp4")) == len(clips[0].frames)
    measured = measure(clips[0], [Flicker()])
    assert measured.failed == {}
    assert {len(curve) for curve in measured.curves.values()} == {len(clips[0].frames)}
    assert measured.means().keys() == measured.curves.keys()


def test_import_does_without_torch() -> None:
    code = "import sys, rollforge; assert 'torch' not in sys.modules; assert 'load' in rollforge.__all__"
    subprocess.run([sys.executable, "-c", code], check=True)
