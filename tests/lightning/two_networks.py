"""Self Forcing by two processes, as a user's own script under ``torchrun``: ``two_networks.py FOLDER STRATEGY``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor

from rollforge.backbones.pocket.codec import PocketCodec
from rollforge.backbones.pocket.network import Pocket
from rollforge.backbones.pocket.text import PocketText
from rollforge.data.clips import WorldClips
from rollforge.lightning.data import RolloutData
from rollforge.lightning.module import RolloutModule
from rollforge.lightning.parallel import whole_weights
from rollforge.objectives import DMD, Clips, SelfForcing
from rollforge.pipeline import Pipeline
from rollforge.policies import Window
from rollforge.samplers import FewStep

RATE = 0.05
STRATEGIES: dict[str, Any] = {
    "ddp": lambda: "ddp_find_unused_parameters_true",
    "fsdp": lambda: ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1),
}


class Recorded(SelfForcing):
    """Keeps the random state and the clips of each step."""

    def __call__(self, pipeline: Pipeline, clips: Clips) -> dict[str, Tensor]:
        STEPS.append((torch.get_rng_state(), clips))
        return super().__call__(pipeline, clips)


STEPS: list[tuple[Tensor, Clips]] = []


def network() -> Pocket:
    torch.manual_seed(0)
    return Pocket(dim=32, layers=1, heads=2, ffn_dim=64, window=6, horizon=6, weights="random")


def module(kind: type[SelfForcing]) -> RolloutModule:
    return RolloutModule(
        backbone=network(), conditioner=PocketText(), codec=PocketCodec(width=16, weights="random"), policy=Window(2),
        sampler=FewStep((1000, 750, 500, 250)), objective=kind(DMD(), network(), network(), ratio=1, critic_clip=None,
        critic_optimizer=sgd), optimizer=sgd,
    )  # fmt: skip


def sgd(weights: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(weights, lr=RATE)


def main(folder: Path, strategy: str) -> None:
    torch.set_num_threads(1)
    own = module(Recorded)
    fitting = Trainer(
        accelerator="cpu", devices=2, strategy=STRATEGIES[strategy](), max_steps=2, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    torch.manual_seed(1 + int(os.environ["RANK"]) * (strategy == "ddp"))
    fitting.fit(own, RolloutData(train_dataset=WorldClips(frames=6, clips=8), batch_size=2))
    assert own.critic is not None
    weights = {name: whole_weights(network) for name, network in (("student", own.backbone), ("critic", own.critic))}
    torch.save({"weights": weights, "steps": STEPS}, folder / f"{fitting.global_rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
