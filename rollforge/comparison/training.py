"""The training of a point: its folder, what is in it, and whether it has to be made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rollforge.comparison.runs import Run, read_record
from rollforge.errors import UserError

PROGRESS = "training.json"


@dataclass
class TrainingRun(Run):
    """One point's ``rollforge fit``. Arguments as of ``Run``; ``asked`` counts steps."""

    log = "fit.log"
    unit = "steps"

    @property
    def command(self) -> list[str]:
        return ["fit", *self.arguments, "--output_dir", str(self.folder)]

    @property
    def finished(self) -> bool:
        same = self.record.get("hash") == self.hash
        return same and bool(self.progress.get("complete")) and self.checkpoint.exists()

    @property
    def started(self) -> bool:
        return (self.folder / PROGRESS).is_file()

    @property
    def progress(self) -> dict[str, Any]:
        """The progress that ``fit`` reports."""
        return read_record(self.folder / PROGRESS)

    @property
    def fps(self) -> float:
        return 0.0

    def made(self) -> float:
        step = self.progress.get("step")
        return min(self.asked, float(step)) if isinstance(step, int) else 0.0


def check_training(config: dict[str, Any]) -> int:
    """Steps of a training. Raises ``UserError`` for a config that cannot be trained, or has no end."""
    for section, key, what in (("model", "objective", "the loss"), ("data", "train_dataset", "what to train on")):
        if not (config.get(section) or {}).get(key):
            raise UserError(f"compare --fit needs {section}.{key}, {what}, and the config names none.")
    steps = (config.get("trainer") or {}).get("max_steps")
    if not isinstance(steps, int) or steps < 1:
        raise UserError("compare --fit needs trainer.max_steps, the steps of each training, and the config names none.")
    return steps
