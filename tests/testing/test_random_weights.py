"""Random weights are noticed by the attribute of the contract, whatever the argument is called."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from rollforge.backbones.pocket.codec import PocketCodec
from rollforge.backbones.pocket.network import Pocket
from rollforge.backbones.pocket.text import PocketText
from rollforge.errors import UserError
from rollforge.pipeline import Pipeline
from rollforge.policies import Window
from rollforge.samplers import FewStep


class Other(Pocket):
    """Calls its file otherwise."""

    def __init__(self, checkpoint: str | None = None) -> None:
        super().__init__(dim=32, layers=1, heads=2, ffn_dim=64)
        self.weights = checkpoint


def pipeline(backbone: Any) -> Pipeline:
    codec = PocketCodec(width=16, weights="random")
    return Pipeline(backbone=backbone, conditioner=PocketText(), codec=codec, policy=Window(1), sampler=FewStep())


def test_weights_that_nobody_asked_for_are_refused() -> None:
    with pytest.raises(UserError, match=r"Other has .* in model\.backbone\.init_args, or"):
        pipeline(Other()).check_weights()
    pipeline(Other("random")).check_weights()


def test_a_network_that_does_not_say_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    silent = Other()
    del silent.weights
    with caplog.at_level(logging.WARNING):
        pipeline(silent).check_weights()
    assert "The backbone Other does not say where its weights are from" in caplog.text
