"""``predict``, ``test`` and ``fit``: LightningCLI over one YAML."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from rollforge.commands.mistakes import Parser, check_files
from rollforge.data.module import RolloutData
from rollforge.module import RolloutModule
from rollforge.registry import registry
from rollforge.report.predict import VideoOutput
from rollforge.report.run import RunFolder, write
from rollforge.report.scores import Scores, table, truth
from rollforge.report.training import TrainingReport
from rollforge.video.sheet import draw, save

DEFAULTS: dict[str, Any] = {"logger": False, "enable_model_summary": False}


class RollforgeCLI(LightningCLI):
    """LightningCLI with a run folder."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Options beside Lightning's own."""
        parser.add_argument("--output_dir", type=str, default=None, help="run folder (default: outputs/<config name>)")
        parser.add_argument("--overwrite", type=bool, default=False, help="make finished videos again")
        parser.add_argument("--report_every", type=int, default=250, help="fit: steps between reports and checkpoints")

    @property
    def chosen(self) -> Any:
        """The resolved config of the subcommand."""
        return self.config[self.subcommand]

    @property
    def folder(self) -> RunFolder:
        """The run folder."""
        named = [Path(str(config)).stem for config in self.chosen.get("config") or []]
        path = Path(self.chosen.output_dir or Path("outputs") / (named[-1] if named else "run"))
        text = self.parser.dump(self.config, skip_none=False)
        return RunFolder(path, yaml.safe_load(text)[self.subcommand], self.chosen.overwrite)

    def before_predict(self) -> None:
        """Checks all that can be checked before the first block."""
        requests = self.datamodule.requests(self.model.backbone.spec.fps)
        self.model.conditioner.check([request.prompt for request in requests])
        folder = self.folder
        folder.open()
        self.model.output = VideoOutput(folder)

    def after_predict(self) -> None:
        """Says what there is to look at, and what to try next."""
        made = "\n".join(f"  {path}" for path in self.model.output.made)
        sys.stdout.write(f"\nOpen:\n{made}\n\nNext, another prompt and a longer video:\n  {_next(self.chosen)}\n")

    def before_test(self) -> None:
        """Checks all that can be checked before the first block."""
        requests = self.datamodule.requests(self.model.backbone.spec.fps)
        self.model.conditioner.check([request.prompt for request in requests])
        self.folder.open()
        self.model.scores = Scores()

    def after_test(self) -> None:
        """Writes and prints the figures."""
        scores, path = self.model.scores, self.folder.path
        rows = [*truth(self.model, self.datamodule.requests(self.model.backbone.spec.fps)), *scores.rows]
        write(path / "metrics.json", json.dumps(rows, indent=1))
        horizon = self.model.codec.pixel_frames(self.model.backbone.spec.horizon) / self.model.fps
        save(draw(scores.sheets, type(self.model.policy).__name__, horizon), path / "sheet.png")
        sys.stdout.write(f"\n{table(rows)}\n\nOpen:\n  {path / 'sheet.png'}\n  {path / 'metrics.json'}\n")

    def before_fit(self) -> None:
        """Adds checkpoints, the loss curve and samples."""
        self.folder.create()
        folder, every = self.folder.path, self.chosen.report_every
        keep = ModelCheckpoint(dirpath=folder, save_last=True, save_top_k=0, every_n_train_steps=every)
        trainer: Any = self.trainer
        if not self.chosen.trainer.callbacks:  # Lightning has put its own checkpoints into the working directory
            trainer.callbacks = [each for each in trainer.callbacks if not isinstance(each, ModelCheckpoint)]
        trainer.callbacks += [TrainingReport(folder, every), keep]


def run(name: str, arguments: list[str]) -> None:
    """Runs one of Lightning's subcommands."""
    _quiet()
    check_files(arguments)
    registry().load()
    try:
        RollforgeCLI(
            RolloutModule,
            RolloutData,
            args=[name, *arguments],
            parser_class=Parser,
            save_config_callback=None,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            trainer_defaults={**DEFAULTS, "enable_progress_bar": name == "fit"},
        )
    except SystemExit as leaving:  # how the Trainer answers an interrupt
        if isinstance(leaving.__context__, KeyboardInterrupt):
            raise leaving.__context__ from None
        raise


def _next(chosen: Any) -> str:
    config = " ".join(f"--config {path}" for path in chosen.get("config") or [])
    return (
        f"rollforge predict {config} --data.prompts 'a yellow cone over snow at night' --data.seconds 120 "
        "--output_dir outputs/next"
    )


def _quiet() -> None:
    """Lightning's advertisements and notes on workers are not what a person came for."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
        logging.getLogger(name).propagate = False
    warnings.filterwarnings("ignore", module="lightning")
