"""Whether the network would be faster in bfloat16 on this processor, by its widest linear layer."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

from rollforge.backbones.base import Backbone
from rollforge.doctor.finding import Findings

ROUNDS, CALLS, ROWS = 5, 3, 256
FASTER = 1.2
"""Less than this is not worth a change of the video."""


@torch.no_grad()
def half_precision(findings: Findings, backbone: Backbone) -> None:
    """Reports where a product of a float32 network is faster in bfloat16, with up to ``ROWS`` tokens of a block."""
    layers = (each for each in backbone.modules() if isinstance(each, nn.Linear))
    widest = max(layers, key=lambda layer: layer.weight.numel(), default=None)
    if widest is None:
        return
    tokens = torch.randn(min(ROWS, backbone.spec.block * backbone.spec.tokens), widest.in_features)
    weight = torch.randn(widest.out_features, widest.in_features)
    single = product_milliseconds(tokens, weight)
    half = product_milliseconds(tokens.bfloat16(), weight.bfloat16())
    if single > FASTER * half:
        findings.add(
            "ok", "precision",
            f"A linear layer of the network takes {single:.2f} ms in float32 and {half:.2f} ms in bfloat16 here: "
            "--trainer.precision bf16-true may be faster, and changes the videos a little.",
        )  # fmt: skip


def product_milliseconds(x: Tensor, weight: Tensor) -> float:
    """Of one product, the fastest of some rounds."""
    rounds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(CALLS):
            nn.functional.linear(x, weight)
        rounds.append((time.perf_counter() - began) / CALLS * 1e3)
    return min(rounds)
