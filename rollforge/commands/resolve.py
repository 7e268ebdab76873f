"""The whole config of each point, read just as ``rollforge test`` will read it, before anything is run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rollforge import trust
from rollforge.commands.lightning import _quiet
from rollforge.commands.parsed import ParsedCLI
from rollforge.commands.typed import read
from rollforge.comparison.vary import Point
from rollforge.data.requests import read_prompts
from rollforge.doctor.parts import build
from rollforge.errors import UserError
from rollforge.lightning.data import RolloutData

Config = dict[str, Any]
COMMAND = "test"
CHEAP = ("policy", "sampler", "noise")
"""Parts of the model that are built to see whether they can be; no weights are read for them."""


def resolve(points: Sequence[Point], lines: Sequence[Sequence[str]]) -> list[Config]:
    """The config of each point, whose ``rollforge test`` has the arguments in ``lines``.

    Raises:
        UserError: for the first point that cannot be, named by its values.
    """
    _quiet()
    reader: ParsedCLI | None = None
    configs: list[Config] = []
    for point, line in zip(points, lines, strict=True):
        typed = read(line)
        try:
            with trust.guarded(typed.modules):
                reader = reader or ParsedCLI(COMMAND, typed)
                config = reader.read(typed)
                _check(config)
        except UserError as error:
            raise UserError(f"The point {point.named} cannot be run: {error}") from error
        configs.append(config)
    return configs


def seconds(config: Config) -> float:
    """Seconds of video that a config asks for, over all prompts and seeds."""
    data = config["data"]
    prompts = read_prompts(data["prompts"])[: data.get("first_prompts")]
    return len(prompts) * int(data.get("seeds") or 1) * float(data["seconds"])


def _check(config: Config) -> None:
    """Builds what is quickly built."""
    for name in CHEAP:
        build(name, config["model"].get(name))
    data = {key: value for key, value in config["data"].items() if key != "train_dataset"}
    read_prompts(RolloutData(**data).prompts or [])
    if not data.get("prompts"):
        raise UserError("There is nothing to generate: give data.prompts one prompt or more.")
