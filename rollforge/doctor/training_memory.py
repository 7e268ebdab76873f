"""Whether ``fit`` with a config fits into memory."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from rollforge.budget import TrainingCheck
from rollforge.data.requests import Request
from rollforge.doctor import parts
from rollforge.lightning.data import RolloutData


def training_check(
    config: Any, module: SimpleNamespace, trainer: Any, requests: Sequence[Request], card: int | None
) -> TrainingCheck:
    """The budget of ``fit``.

    Args:
        config: the resolved config, with an objective and clips to train on.
        module: the components, without weights where they cannot be loaded.
        trainer: the Trainer of the config.
        requests: the samples of a report.
        card: bytes free on a CUDA card that is not here; None for this machine.

    Raises:
        UserError: for an objective, an optimizer or clips that cannot be built.
    """
    chosen = SimpleNamespace(
        **vars(module) | {name: parts.build(name, config.model[name]) for name in ("objective", "optimizer")},
        average=config.model.ema > 0,
    )
    clips, batch = parts.build("train_dataset", config.data.train_dataset, RolloutData), config.data.batch_size
    if card is None:
        return TrainingCheck.of(chosen, trainer, clips, batch, requests)
    return TrainingCheck.on_card(chosen, trainer, card, clips, batch, requests)
