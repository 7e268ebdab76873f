"""``predict``, ``test`` and ``fit``: LightningCLI over one YAML."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from rollforge.data.module import RolloutData
from rollforge.errors import UserError, nearest
from rollforge.module import RolloutModule
from rollforge.registry import registry
from rollforge.report.training import TrainingReport


class Parser(LightningArgumentParser):
    """Turns what jsonargparse says into one sentence."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UserError(_sentence(message)) from ex


class RollforgeCLI(LightningCLI):
    """LightningCLI with an output folder."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--output_dir", type=str, default=None, help="run folder (default: outputs/<config name>)")
        parser.add_argument("--checkpoint_every", type=int, default=500, help="fit: steps between checkpoints")
        parser.add_argument("--overwrite", type=bool, default=False, help="make finished videos again")

    @property
    def output_dir(self) -> Path:
        """The run folder."""
        return Path(self.config[self.subcommand].output_dir)

    def before_fit(self) -> None:
        checkpoint = ModelCheckpoint(
            dirpath=self.output_dir, save_last=True, save_top_k=0, every_n_train_steps=self.config[self.subcommand].checkpoint_every
        )
        self.trainer.callbacks += [TrainingReport(self.output_dir), checkpoint]


def run(name: str, arguments: list[str]) -> None:
    """Runs one of Lightning's subcommands."""
    registry().load()
    RollforgeCLI(
        RolloutModule,
        RolloutData,
        args=[name, *arguments],
        parser_class=Parser,
        save_config_callback=None,
        auto_configure_optimizers=False,
        seed_everything_default=0,
    )


def _sentence(message: str) -> str:
    return message
