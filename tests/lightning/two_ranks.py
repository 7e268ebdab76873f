"""What a user's own script does under ``torchrun``: trains, measures, predicts, and loads the checkpoint again."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from deterministic import Calm
from lightning.pytorch import Trainer

from rollforge.backbones.pocket.codec import PocketCodec
from rollforge.backbones.pocket.network import Pocket
from rollforge.backbones.pocket.text import PocketText
from rollforge.data.clips import WorldClips
from rollforge.lightning.data import RolloutData
from rollforge.lightning.module import RolloutModule
from rollforge.metrics.flicker import Flicker
from rollforge.policies import Window
from rollforge.samplers import Euler

PROMPTS: Any = ["a red ball over snow at day", "a blue box over sand at night", "a green cone over snow at day"]
RANKS = int(os.environ.get("WORLD_SIZE", "1"))


def parts() -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "backbone": Pocket(dim=32, layers=1, heads=2, ffn_dim=64, weights="random"), "conditioner": PocketText(),
        "codec": PocketCodec(width=16, weights="random"), "policy": Window(2), "sampler": Euler(steps=1),
    }  # fmt: skip


def trainer(**more: Any) -> Trainer:
    if RANKS > 1:
        more |= {"strategy": "ddp", "devices": RANKS}
    return Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **more,
    )  # fmt: skip


def main(folder: Path) -> dict[str, Any]:
    """Everything that came out, in this process."""
    torch.set_num_threads(1)
    module = RolloutModule(
        **parts(), objective=Calm(), metrics=[Flicker()], optimizer=lambda weights: torch.optim.SGD(weights, lr=0.05)
    )
    fitting = trainer(max_steps=2)
    fitting.fit(module, RolloutData(train_dataset=WorldClips(frames=6, clips=8), batch_size=4 // RANKS))
    fitting.save_checkpoint(folder / "a.ckpt")
    loaded = RolloutModule.load_from_checkpoint(folder / "a.ckpt", **parts(), metrics=[Flicker()])
    data = RolloutData(prompts=PROMPTS, seconds=1)
    return {
        "trained": {name: value.clone() for name, value in module.backbone.state_dict().items()},
        "loaded": loaded.backbone.state_dict(),
        "frames": trainer().predict(loaded, data),
        "measured": trainer().test(loaded, data, verbose=False),
    }


if __name__ == "__main__":
    place = Path(sys.argv[1])
    torch.save(main(place), place / f"{os.environ['RANK']}.pt")
