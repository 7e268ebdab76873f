"""``rollforge.load``: a pipeline from the YAML that the command line takes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from rollforge import trust as trusting
from rollforge.commands.parsed import ParsedCLI
from rollforge.commands.room import check_networks
from rollforge.commands.typed import Typed, read
from rollforge.doctor.parts import NEEDED, OPTIONAL, build
from rollforge.errors import UserError
from rollforge.files.checkpoints import read_checkpoint
from rollforge.files.sharded import restricted
from rollforge.lightning.module import RolloutModule
from rollforge.lightning.resuming import check_checkpoint
from rollforge.pipeline import Pipeline

CHATTER = logging.getLogger("lightning.pytorch.utilities.rank_zero")


def load(config: str | PathLike[str], *overrides: str, trust: Sequence[str] = ()) -> Pipeline:
    """Builds the pipeline of a config, on the device and in the precision that its section ``trainer`` chooses.

        pipeline = rollforge.load("config.yaml", "model.policy=Window", "trainer.accelerator=cpu")

    Args:
        config: the YAML file.
        overrides: further keys, as ``--key=value`` on the command line; the dashes may be left out. With ``ckpt_path``
            the weights are those of a checkpoint of ``fit``.
        trust: modules of which the config may name anything, as ``--trust``. A config may never trust by itself.

    Raises:
        UserError: for any config or override that the command line rejects.
    """
    options = [text if text.startswith("--") else f"--{text}" for text in overrides]
    typed = read([f"--config={config}", *options, *(f"--trust={name}" for name in trust)])
    with trusting.guarded(typed.modules), restricted(typed.weights_only):
        chosen = ParsedCLI("predict", typed).chosen
        return pipeline_of(chosen, typed)


def pipeline_of(chosen: Any, typed: Typed) -> Pipeline:
    """The pipeline of a parsed config, in the guard of what it may name. Raises ``UserError`` if it cannot be built."""
    check_networks(chosen.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(chosen.seed_everything or 0)  # of random weights
        parts = {name: build(name, chosen.model.get(name)) for name in (*NEEDED, *OPTIONAL)}
    plain = {name: chosen.model[name] for name in ("negative_prompt", "compile", "measure_finished")}
    module = RolloutModule(**parts, **plain)
    if chosen.ckpt_path:
        check_checkpoint(chosen.ckpt_path)
        content = read_checkpoint(chosen.ckpt_path, "cpu", typed.weights_only)
        module.load_checkpoint_weights(content["state_dict"], chosen.ckpt_path)
    trainer = _trainer(chosen.trainer)
    return module.pipeline.to(trainer.strategy.root_device, str(trainer.precision)).eval()


def _trainer(chosen: Any) -> Any:
    """A Trainer on one device of the config, which resolves its settings. Raises ``UserError`` without one."""
    level = CHATTER.level
    CHATTER.setLevel(logging.ERROR)
    try:
        return Trainer(
            accelerator=chosen.accelerator, devices=1, precision=chosen.precision, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise UserError(
            f"The section trainer cannot be used on this machine: {' '.join(str(error).split())}"
        ) from error
    finally:
        CHATTER.setLevel(level)
