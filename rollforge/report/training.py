"""What a training run leaves behind: the loss curve, samples and the weights."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from lightning.pytorch import Callback, Trainer
from matplotlib import pyplot
from torch import Tensor

from rollforge.data.module import RolloutData
from rollforge.files import replacing, write, write_tensors
from rollforge.parallel import is_sharded, whole_weights
from rollforge.safe_files import read_text
from rollforge.video.sheet import ContactSheet, draw, save

if TYPE_CHECKING:
    from rollforge.module import RolloutModule

matplotlib.use("Agg")

CURVE = 1_000_000_000  # bytes of losses.csv


class TrainingReport(Callback):
    """Writes ``losses.csv``, ``loss.png``, ``samples-<step>.png`` and ``<part>.safetensors`` into the run folder.

    Samples are rolled from the config's own prompts, with the averaged weights where there are any.

    Args:
        folder: the run folder.
        every: steps between two reports.
    """

    def __init__(self, folder: Path, every: int = 250) -> None:
        self.folder, self.every = folder, every
        self.rows: list[dict[str, float]] = []
        self.reported = -1

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Takes up the curve of the run that is being resumed, up to its checkpoint."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "losses.csv"
        if trainer.global_step and file.exists():
            lines = read_text(file, CURVE, "loss curve").splitlines()
            rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines)]
            self.rows = [row for row in rows if row["step"] <= trainer.global_step]

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Notes the losses of one step."""
        measured = {
            name.removeprefix("train/"): float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("train/")
        }
        self.rows.append({"step": trainer.global_step, **measured})
        if trainer.global_step % self.every == 0:
            self.report(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """The last report."""
        if self.rows and self.reported != trainer.global_step:
            self.report(trainer, pl_module)

    def report(self, trainer: Trainer, module: RolloutModule) -> None:
        """Writes everything there is to see so far. With several processes rank 0 writes, but all must come here."""
        self.reported = trainer.global_step
        with module.averaged():
            weights = whole_weights(module.trained)
            if trainer.is_global_zero:
                self._figures(module, weights)
            if trainer.is_global_zero or is_sharded(module.backbone):
                self._samples(trainer, module)

    def _figures(self, module: RolloutModule, weights: dict[str, Tensor]) -> None:
        assert module.objective is not None
        text = StringIO(newline="")
        writer = csv.DictWriter(text, list(self.rows[-1]))
        writer.writeheader()
        writer.writerows(self.rows)
        write(self.folder / "losses.csv", text.getvalue())
        _plot(self.rows, self.folder / "loss.png")
        tensors = {name: value.contiguous() for name, value in weights.items()}
        write_tensors(self.folder / f"{module.objective.trains}.safetensors", tensors)

    def _samples(self, trainer: Trainer, module: RolloutModule) -> None:
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, RolloutData) or not data.prompts:
            return
        training = module.training
        module.eval()
        sheets = []
        for request in module.requests(data):
            sheet = ContactSheet(request.prompt, module.codec.pixel_frames(request.frames), module.fps)
            for video in module.roll([request]):
                sheet.add(video[0].numpy())
            sheets.append(sheet)
        module.train(training)
        if not trainer.is_global_zero:
            return
        horizon = module.codec.pixel_frames(module.backbone.spec.horizon) / module.fps
        title = f"step {trainer.global_step}, {type(module.policy).__name__}"
        save(draw(sheets, title, horizon), self.folder / f"samples-{trainer.global_step:06d}.png")


def _plot(rows: list[dict[str, float]], path: Path) -> None:
    """Every logged loss over the steps, smoothed over a fiftieth of the run."""
    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    steps = [row["step"] for row in rows]
    width = max(1, len(rows) // 50)
    for name in rows[-1]:
        if name.startswith("loss"):
            values = np.array([row.get(name, np.nan) for row in rows])
            smooth = np.convolve(values, np.ones(width) / width, mode="valid")
            axes.plot(steps[width - 1 :], smooth, label=name)
    axes.set_xlabel("step")
    axes.set_yscale("log")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.tight_layout()
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=120)
    pyplot.close(figure)
