"""``predict``, ``test`` and ``fit``: LightningCLI over one YAML."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from rollforge.data.module import RolloutData
from rollforge.errors import UserError, nearest
from rollforge.module import RolloutModule
from rollforge.registry import registry


class Parser(LightningArgumentParser):
    """Turns what jsonargparse says into one sentence."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UserError(_sentence(message)) from ex


class RollforgeCLI(LightningCLI):
    """LightningCLI with an output folder."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--output_dir", type=str, default=None, help="run folder (default: outputs/<config name>)")
        parser.add_argument("--overwrite", type=bool, default=False, help="make finished videos again")
