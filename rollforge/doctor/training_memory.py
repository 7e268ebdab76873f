"""Whether ``fit`` with a config fits into memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rollforge.data.requests import Request
from rollforge.doctor import parts
from rollforge.pipeline import Pipeline
from rollforge.training_budget import Recipe, TrainingCheck


def training_check(
    config: Any, pipeline: Pipeline, trainer: Any, requests: Sequence[Request], card: int | None
) -> TrainingCheck:
    """The budget of ``fit``.

    Args:
        config: the resolved config, with an objective and clips to train on.
        pipeline: the components, without weights where they cannot be loaded.
        trainer: the Trainer of the config.
        requests: the samples of a report.
        card: bytes free on a CUDA card that is not here; None for this machine.

    Raises:
        UserError: for an objective, an optimizer or clips that cannot be built.
    """
    objective, optimizer = (parts.build(name, config.model[name]) for name in ("objective", "optimizer"))
    if lora := parts.build("lora", config.model.lora):
        lora.adapt(pipeline.backbone)
    recipe = Recipe(objective, optimizer, config.model.ema > 0)
    clips, batch = parts.build("train_dataset", config.data.train_dataset), config.data.batch_size
    if card is None:
        return TrainingCheck.of(pipeline, recipe, trainer, clips, batch, requests)
    return TrainingCheck.on_card(pipeline, recipe, trainer, card, clips, batch, requests)
