"""Low-rank training: what is trained, what is exported, how it resumes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file
from small import one_thread  # noqa: F401 - a fixture is used by being here
from torch import Tensor

from rollforge.backbones.low_rank import LowRank, merged, trainable
from rollforge.backbones.pocket.codec import PocketCodec
from rollforge.backbones.pocket.network import Pocket
from rollforge.backbones.pocket.text import PocketText
from rollforge.data.clips import WorldClips
from rollforge.errors import UserError
from rollforge.lightning.data import RolloutData
from rollforge.lightning.module import RolloutModule
from rollforge.lightning.training_report import TrainingReport
from rollforge.objectives import DMD, SelfForcing
from rollforge.policies import Window
from rollforge.samplers import FewStep

LOW_RANK = LowRank(rank=2, alpha=3, targets=["self_attn.q", "ffn.0"])


def network(weights: str = "random") -> Pocket:
    torch.manual_seed(0)
    return Pocket(dim=32, layers=1, heads=2, ffn_dim=64, window=6, horizon=6, weights=weights)


def module() -> RolloutModule:
    objective = SelfForcing(DMD(), network(), network(), ratio=1, critic_lora=LOW_RANK)
    return RolloutModule(
        backbone=network(), conditioner=PocketText(), codec=PocketCodec(width=16, weights="random"), policy=Window(),
        sampler=FewStep((1000, 500)), objective=objective, lora=LOW_RANK, ema=0.5, ema_start=2,
        optimizer=lambda weights: torch.optim.AdamW(weights, lr=0.1),
    )  # fmt: skip


def training(folder: Path, steps: int, ckpt_path: Path | None = None) -> tuple[Trainer, RolloutModule]:
    own, report = module(), TrainingReport(folder)
    fitting = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[report], max_steps=steps,
    )  # fmt: skip
    torch.manual_seed(1)
    data = RolloutData(train_dataset=WorldClips(frames=6, clips=8), batch_size=2)
    fitting.fit(own, data, ckpt_path=ckpt_path)
    report.report(fitting, own)
    return fitting, own


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_low_rank_training_of_both_networks_is_exported_whole_and_resumed_weight_for_weight(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    before = network().state_dict()
    cut, own = training(tmp_path / "cut", 3)
    cut.save_checkpoint(tmp_path / "cut.ckpt")
    _, whole = training(tmp_path / "whole", 4)
    _, resumed = training(tmp_path / "resumed", 4, tmp_path / "cut.ckpt")
    assert_equal(whole.state_dict(), resumed.state_dict())

    for each in (own.backbone, own.critic):
        assert each is not None
        trained = merged(each.state_dict())
        changed = {name for name, value in trained.items() if not torch.equal(value, before[name])}
        assert changed == {"blocks.0.self_attn.q.weight", "blocks.0.ffn.0.weight"}
        assert {tuple(weight.shape) for weight in trainable(each)} == {(2, 32), (32, 2), (64, 2)}
    layer = "blocks.0.self_attn.q."
    raw = own.backbone.state_dict()
    change = raw[f"{layer}lora_B.default.weight"] @ raw[f"{layer}lora_A.default.weight"] * 3 / 2
    torch.testing.assert_close(merged(raw)[f"{layer}weight"], before[f"{layer}weight"] + change)

    assert own.average is not None
    exported = load_file(tmp_path / "cut" / "backbone.safetensors")
    assert_equal(exported, merged(own.average.module.state_dict()))
    for file in (tmp_path / "cut" / "backbone.safetensors", tmp_path / "cut.ckpt"):
        assert_equal(network(str(file)).state_dict(), exported)
    plain: Any = {name: getattr(own.pipeline, name) for name in ("conditioner", "codec", "policy", "sampler")}
    assert_equal(
        RolloutModule.load_from_checkpoint(tmp_path / "cut.ckpt", backbone=network(), **plain).backbone.state_dict(),
        exported,
    )


def test_a_target_that_names_no_linear_layer_is_refused_in_one_sentence() -> None:
    with pytest.raises(UserError, match=r"names to_q, and no linear layer of Pocket ends so; choose from 0, .*, q, v"):
        LowRank(targets=["self_attn.q", "to_q"]).adapt(network())
