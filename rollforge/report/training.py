"""What a training run leaves behind: the loss curve, samples and the weights."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from safetensors.torch import save_file


class TrainingReport(Callback):
    """Writes ``losses.csv``, ``loss.png``, ``samples.png`` and ``<part>.safetensors`` into the run folder.

    Args:
        folder: the run folder.
        every: steps between two reports.
    """

    def __init__(self, folder: Path, every: int = 250) -> None:
        self.folder, self.every = folder, every
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        measured = {name.removeprefix("train/"): float(value) for name, value in trainer.callback_metrics.items()}
        self.rows.append({"step": trainer.global_step, **measured})
        if trainer.global_step % self.every == 0:
            self.report(trainer, module)

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        self.report(trainer, module)

    def report(self, trainer: Trainer, module: Any) -> None:
        """Writes everything there is to see so far."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "losses.csv").open("a", newline="") as file:
            writer = csv.DictWriter(file, self.rows[0].keys())
            if file.tell() == 0:
                writer.writeheader()
            writer.writerows(self.rows)
        self.rows = []
        with module.averaged():
            weights = {name: value.contiguous() for name, value in module.trained.state_dict().items()}
            save_file(weights, self.folder / f"{module.objective.trains}.safetensors")
