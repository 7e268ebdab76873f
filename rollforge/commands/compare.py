"""``rollforge compare``: one config, several values of one of its parts, the same prompts, seeds and noise for all."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rollforge.commands.arguments import Arguments
from rollforge.errors import UserError


def run(arguments: list[str]) -> None:
    """Measures each value with ``test`` and prints one table."""
    parser = Arguments(
        prog="rollforge compare",
        description="Measure a config under several values of one option. Other options go to `rollforge test`.",
    )
    parser.add_argument("--config", required=True, help="the YAML to measure")
    parser.add_argument("--vary", required=True, help="OPTION=VALUE,VALUE,... e.g. model.policy=Window,RollingSink")
    parser.add_argument("--output_dir", default=None, help="run folder (default: outputs/<config name>)")
    chosen, rest = parser.parse_known_args(arguments)
    option, _, listed = chosen.vary.partition("=")
    values = [value.strip() for value in listed.split(",") if value.strip()]
    if not option or not values:
        raise UserError(f"--vary must be OPTION=VALUE,VALUE,..., not {chosen.vary!r}.")
    folder = Path(chosen.output_dir or Path("outputs") / Path(chosen.config).stem)
    measured = [_measure(chosen.config, option, value, folder / value, rest) for value in values]
    _report(folder, option, dict(zip(values, measured, strict=True)))


def _measure(config: str, option: str, value: str, folder: Path, rest: list[str]) -> Path:
    """One run of ``test``."""
    from rollforge.commands.lightning import run as run_lightning

    sys.stdout.write(f"{option} = {value}\n")
    run_lightning("test", ["--config", config, *rest, f"--{option}", value, "--output_dir", str(folder)])
    return folder


def _report(folder: Path, option: str, measured: dict[str, Path]) -> None:
    from rollforge.report.run import write
    from rollforge.report.scores import TRUE_WORLD, table

    rows = {}
    for value, path in measured.items():
        for row in json.loads((path / "metrics.json").read_text()):
            name = row["policy"] if row["policy"] == TRUE_WORLD else value
            rows[name, row["x"], row["prompt"]] = row | {"policy": name}
    text = table(sorted(rows.values(), key=lambda row: row["x"]), heading=option.rpartition(".")[2])
    write(folder / "table.md", text + "\n")
    sheets = "\n".join(f"  {path / 'sheet.png'}" for path in measured.values())
    sys.stdout.write(f"\n{text}\n\nOpen:\n{sheets}\n  {folder / 'table.md'}\n")
