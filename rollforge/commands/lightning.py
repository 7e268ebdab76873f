"""``predict``, ``test`` and ``fit``: LightningCLI over one YAML."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from rollforge.budget import Guard
from rollforge.commands.mistakes import Parser, check_files
from rollforge.commands.ranks import Ranks
from rollforge.data.module import RolloutData
from rollforge.errors import UserError
from rollforge.module import RolloutModule
from rollforge.registry import registry
from rollforge.report.predict import VideoOutput
from rollforge.report.run import RunFolder, write
from rollforge.report.scores import Scores, table, truth
from rollforge.report.training import TrainingReport
from rollforge.video.sheet import draw, save

DEFAULTS: dict[str, Any] = {"logger": False, "enable_model_summary": False}


class RollforgeCLI(LightningCLI):
    """LightningCLI with a run folder, which all processes of the run share and rank 0 alone prepares."""

    def __init__(self, ranks: Ranks, *arguments: Any, **options: Any) -> None:
        self.ranks = ranks
        super().__init__(*arguments, **options)

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """The Trainer, with an eye on the other processes. Raises ``UserError`` for one that cannot be."""
        try:
            trainer: Any = super().instantiate_trainer(**kwargs)
        except (ValueError, MisconfigurationException) as error:  # no such device, no such strategy
            raise UserError(f"The section trainer does not work here: {' '.join(str(error).split())}") from error
        trainer.callbacks.append(self.ranks)
        return trainer

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
        config = yaml.safe_load(text)[self.subcommand]
        return RunFolder(path, config, self.chosen.overwrite, self.trainer.global_rank)

    def before_predict(self) -> None:
        """Checks all that can be checked before the first block."""
        if not self.chosen.ckpt_path:
            self.model.check_weights()
        requests = self.model.requests(self.datamodule)
        self.model.conditioner.check([prompt for request in requests for prompt in request.prompts.values()])
        self.guard = Guard.of(self.model, self.trainer, requests)
        self.guard.check()
        folder = self.folder
        self.model.output = VideoOutput(folder)
        if folder.rank == 0:
            folder.open()
            self.model.output.expect(self.model, requests)

    def predict(self, **options: Any) -> None:
        """Rolls; memory that runs out ends in the budget and what to change."""
        with self.guard.explained(f" What was made until then is in {self.folder.path}, as *.partial.mp4."):
            self.trainer.predict(**options)

    def after_predict(self) -> None:
        """Says what there is to look at, and what to try next."""
        outputs = self.ranks.gather(self.model.output)
        if outputs is None:
            return
        self.model.output.merge(outputs[1:])
        made = "\n".join(f"  {path}" for path in self.model.output.files)
        next_ = _next(self.chosen, self.model.conditioner.example)
        sys.stdout.write(f"\nOpen:\n{made}\n\nNext, a longer video:\n  {next_}\n")

    def before_test(self) -> None:
        """Checks all that can be checked before the first block."""
        if not self.chosen.ckpt_path:
            self.model.check_weights()
        requests = self.model.requests(self.datamodule)
        self.model.conditioner.check([prompt for request in requests for prompt in request.prompts.values()])
        self.guard = Guard.of(self.model, self.trainer, requests, self.datamodule.rollout_batch)
        self.guard.check()
        folder = self.folder
        if folder.rank == 0:
            folder.open()
        self.model.scores = Scores(rank=folder.rank)

    def test(self, **options: Any) -> None:
        """Rolls and measures; memory that runs out ends in the budget and what to change."""
        with self.guard.explained():
            self.trainer.test(**options)

    def after_test(self) -> None:
        """Writes and prints the figures."""
        scores, path = self.model.scores, self.folder.path
        measured = self.ranks.gather(scores)
        if measured is None:
            return
        scores.merge(measured[1:])
        rows = [*truth(self.model, self.model.requests(self.datamodule)), *scores.rows]
        write(path / "metrics.json", json.dumps(rows, indent=1))
        horizon = self.model.codec.pixel_frames(self.model.backbone.spec.horizon) / self.model.fps
        save(draw(scores.sheets, type(self.model.policy).__name__, horizon), path / "sheet.png")
        sys.stdout.write(f"\n{table(rows)}\n\nOpen:\n  {path / 'sheet.png'}\n  {path / 'metrics.json'}\n")

    def before_fit(self) -> None:
        """Adds checkpoints, the loss curve and samples."""
        if self.trainer.is_global_zero:
            self.folder.create()
        folder, every = self.folder.path, self.chosen.report_every
        keep = ModelCheckpoint(dirpath=folder, save_last=True, save_top_k=0, every_n_train_steps=every)
        trainer: Any = self.trainer
        if not self.chosen.trainer.callbacks:  # Lightning's own, into the working directory; a rich bar
            own = [each for each in trainer.callbacks if not isinstance(each, ModelCheckpoint)]
            trainer.callbacks = [TQDMProgressBar() if isinstance(each, RichProgressBar) else each for each in own]
        trainer.callbacks += [TrainingReport(folder, every), keep]

    def after_fit(self) -> None:
        """Waits for the other processes."""
        self.ranks.gather(None)


def run(name: str, arguments: list[str]) -> None:
    """Runs one of Lightning's subcommands."""
    _quiet()
    ranks = Ranks()
    with ranks.together():
        check_files(arguments)
        registry().load()
        try:
            RollforgeCLI(
                ranks,
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


def _next(chosen: Any, example: str | None) -> str:
    """A command that makes a longer video."""
    config = " ".join(f"--config {path}" for path in chosen.get("config") or [])
    prompt = f"--data.prompts '{example}' " if example else ""
    return f"rollforge predict {config} {prompt}--data.seconds {2 * chosen.data.seconds:g} --output_dir outputs/next"


def _quiet() -> None:
    """Advertisements, notes on workers and retries of the hub are not what a person came for."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
        logging.getLogger(name).propagate = False
    warnings.filterwarnings("ignore", module="lightning")
