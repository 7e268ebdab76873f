"""What a training run writes: the loss curve, samples with their drift, and the weights."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from rollforge.backbones.low_rank import merged
from rollforge.errors import UserError
from rollforge.evaluation import plots
from rollforge.evaluation.loggers import log_image
from rollforge.files.writing import make_folder, write, write_tensors
from rollforge.lightning.data import RolloutData
from rollforge.lightning.parallel import whole_weights
from rollforge.lightning.random_state import unchanged_random_state
from rollforge.lightning.speed import Speed
from rollforge.lightning.validation import Validation
from rollforge.metrics.suite import DriftSuite
from rollforge.prediction import is_sharded
from rollforge.report.curve import RATIO, LossCurve
from rollforge.report.metric_runner import runner_for
from rollforge.video.sheet import ContactSheet, draw, save

MOST = 8
"""Clips of a batch that an error names."""
PICTURES_EVERY = 10.0
"""Seconds between two drawings of a curve, which takes a tenth of a second. The last report draws it in any case."""


class TrainingReport(Callback):
    """Writes ``losses.csv``, ``loss.png``, ``samples-<step>.png`` and ``<part>.safetensors`` into the run folder.

    Samples are generated from the config's own prompts, with the averaged weights where there are any. Their drift goes
    to ``validation.csv`` and ``validation.png``, speed and memory to ``speed.csv``, and all of it to Lightning's
    loggers. Reports that follow each other within seconds do not draw the two curves again. A report does not change
    the training, nor its random numbers. The curves are part of every checkpoint.

    Args:
        folder: the run folder.
        reference: a loss curve to draw under that of the training.
    """

    def __init__(self, folder: Path, reference: LossCurve | None = None) -> None:
        self.folder, self.reference = folder, reference
        self.curve, self.validation, self.speed = LossCurve(), Validation(), Speed(folder / "speed.csv")
        self.step = 0  # of the last row
        self.saved = 0  # step of the last report or of the checkpoint that training started from
        self.drawn = -math.inf  # when, on the monotonic clock

    def state_dict(self) -> dict[str, Any]:
        return self.curve.state_dict() | {"validation": self.validation.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.curve.load_state_dict(state_dict)
        if "validation" in state_dict:  # not in checkpoints of 0.2
            self.validation.load_state_dict(state_dict["validation"])

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        make_folder(self.folder)
        self.step = self.saved = trainer.global_step
        self.speed.begin(trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Records the losses of a batch. Raises ``UserError`` for a step whose loss is not finite."""
        self.speed.clips += len(batch["caption"]) * trainer.world_size
        self.curve.add({name: float(trainer.callback_metrics[f"train/{name}"]) for name in pl_module.logged})
        if trainer.global_step > self.step:
            self.step = trainer.global_step
            row = self.curve.close(self.step)
            loss = row.get("loss", 0.0)
            if RATIO in row and self.step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
                self._log(trainer, "train", {RATIO: row[RATIO]})
            if not math.isfinite(loss) and getattr(trainer.precision_plugin, "scaler", None) is None:
                raise UserError(
                    f"The loss is {loss} at step {self.step}, on {_clips_of(batch)}. {self._saved()} Lower the "
                    "learning rate, set trainer.gradient_clip_val, or train in another precision."
                )

    def _saved(self) -> str:
        """What there is of the training on disk."""
        if not self.saved:
            return "Nothing was saved before."
        return f"The checkpoint and the weights of step {self.saved} stay in {self.folder}."

    def report(self, trainer: Trainer, module: Any, last: bool = False) -> None:
        """Writes all files. With several processes rank 0 writes, but all must call this.

        Args:
            trainer: of the training.
            module: what is trained.
            last: whether no other report follows, so that every picture must show all of the training.

        Raises ``NotWritten`` if it cannot be written.
        """
        self.saved = trainer.global_step
        draws = last or time.monotonic() - self.drawn >= PICTURES_EVERY
        if trainer.is_global_zero:
            self._log(trainer, "train", self.speed.report(trainer.global_step, module.device))
        with unchanged_random_state(), module.averaged():
            weights = merged(whole_weights(module.trained))
            if trainer.is_global_zero:
                self._curve(module, weights, draws)
            if hasattr(module, "pipeline") and (trainer.is_global_zero or is_sharded(module.backbone)):
                self._samples(trainer, module, draws)
        if draws:
            self.drawn = time.monotonic()
        self.speed.restart(trainer.global_step)

    def _curve(self, module: Any, weights: dict[str, Tensor], draws: bool) -> None:
        loss = getattr(module, "objective", module)  # a FitModule has its loss itself
        write(self.folder / "losses.csv", self.curve.csv())
        if draws:
            plots.save(self.curve.figure(self.reference), self.folder / "loss.png")
        contiguous = {name: value.contiguous() for name, value in weights.items()}
        about = {"format": "pt", "objective": type(loss).__name__}
        write_tensors(self.folder / f"{loss.trains}.safetensors", contiguous, about)

    def _samples(self, trainer: Trainer, module: Any, draws: bool) -> None:
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, RolloutData) or not data.prompts:
            return
        training = module.training
        module.eval()
        pipeline, sheets, videos = module.pipeline, [], []
        for request in module.requests(data):
            sheet = ContactSheet(request.prompt, pipeline.codec.pixel_frames(request.frames), pipeline.fps)
            runner = runner_for(pipeline, module.metrics or [DriftSuite()], request.prompt)
            curves, frames = dict[str, list[Tensor]](), 0
            for block in pipeline.roll_requests([request]):
                sheet.add(block.frames[0].numpy())
                for name, curve in runner.update(block.frames[0], frames).items():
                    curves.setdefault(name, []).append(curve)
                frames += block.frames.shape[1]
            sheets.append(sheet)
            videos.append({name: torch.cat(parts) for name, parts in curves.items()})
        module.train(training)
        if not trainer.is_global_zero:
            return
        title = f"step {trainer.global_step}, {type(pipeline.policy).__name__}"
        page = draw(sheets, title, pipeline.horizon_seconds)
        save(page, file := self.folder / f"samples-{trainer.global_step:06d}.png")
        log_image(trainer.loggers, "validation/samples", file, page, trainer.global_step)
        self._drift(trainer, videos, pipeline, draws)

    def _drift(self, trainer: Trainer, videos: list[dict[str, Tensor]], pipeline: Any, draws: bool) -> None:
        """Writes the drift of the samples, and draws it."""
        if not any(videos):
            return
        found = self.validation.add(trainer.global_step, videos, pipeline.fps, pipeline.horizon_seconds)
        write(self.folder / "validation.csv", self.validation.csv())
        if draws:
            plots.save(self.validation.figure(), self.folder / "validation.png")
        self._log(trainer, "validation", found)

    @staticmethod
    def _log(trainer: Trainer, section: str, values: dict[str, float]) -> None:
        for logger in trainer.loggers if values else ():
            logger.log_metrics({f"{section}/{name}": value for name, value in values.items()}, trainer.global_step)


def _clips_of(batch: Any) -> str:
    """Where the clips of a batch are from, or their captions; the first few of them."""
    found = [str(each) for each in batch.get("source", batch["caption"])]
    return ", ".join(dict.fromkeys(found[:MOST])) + (f" and {len(found) - MOST} more" if len(found) > MOST else "")
