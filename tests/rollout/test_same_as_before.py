"""Pocket's latents are those of commit 4425cdc, from before passes were made faster."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from rollforge.backbones.pocket.network import Pocket
from rollforge.backbones.pocket.text import PocketText
from rollforge.policies import RollingSink
from rollforge.rollout import Rollout
from rollforge.samplers import Euler

PROMPT = "a purple ball and a red box over grass at night"
LATENTS = Path(__file__).with_name("pocket_4425cdc.safetensors")
"""What ``configs/quickstart.yaml`` made at 4425cdc: every fourth row and column of 60 frames, ``[60, 8, 2, 2]``."""


def test_latents_of_twenty_blocks_equal_those_of_4425cdc() -> None:
    """Within 1e-4 as long as rounding does not grow. From block 14 on it doubles with each block, there as here.

    Weights that differ by 6e-8 of themselves move block 20 of 4425cdc by 7e-4 (docs/performance.md).
    """
    text = PocketText()
    rollout = Rollout(Pocket(weights="pocket").eval(), RollingSink(6, 5), Euler(4, shift=2.0, guidance=3.0))
    made = rollout(text([PROMPT]), 60, seed=4, negative=text([""]))
    shown = torch.cat([block.latents for block in made], dim=1)[0, :, :, ::4, ::4]
    off = (shown - load_file(LATENTS)["latents"]).abs().unflatten(0, (-1, 3)).amax((1, 2, 3, 4))
    assert len(off) == 20
    assert off[:14].max() < 1e-4
    assert off.max() < 2e-3
