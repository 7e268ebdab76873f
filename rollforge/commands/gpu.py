"""``rollforge gpu``: whether rollforge is right on a CUDA card, and how fast."""

from __future__ import annotations

import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from rollforge import __version__
from rollforge.commands.arguments import Arguments, number, path
from rollforge.files.writing import make_folder, write_json
from rollforge.gpu.report import Row, table
from rollforge.gpu.stages import STAGES, run_stages
from rollforge.ranges import Positive

SECONDS = 470


def run(arguments: list[str]) -> int:
    """Prints the table and writes it as JSON. The exit code is 1 where a check failed."""
    parser = Arguments(
        prog="rollforge gpu",
        description="Check rollforge on a CUDA card: results against the CPU, then speed at the 1.3B shape with random "
        "weights. Without CUDA, results are checked on the CPU at toy size. Needs torch 2.9 or newer, numpy, "
        "safetensors, lightning and pluggy; what else is missing is skipped and named.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--output_dir", type=path, default="outputs/gpu", help="folder of gpu.json (default: outputs/gpu)"
    )
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="default: cuda where it is")
    parser.add_argument("--toy", action="store_true", help="measure speed at toy size too: to see that it runs")
    parser.add_argument("--only", nargs="+", choices=[stage.name for stage in STAGES], help="stages (default: all)")
    parser.add_argument(
        "--seconds", type=number(Positive), default=SECONDS, help=f"limit for all stages (default: {SECONDS})"
    )
    chosen = parser.parse_args(arguments)
    device = _device(chosen.device)
    full = device == "cuda" and not chosen.toy
    names = chosen.only or [stage.name for stage in STAGES if full or chosen.toy or not stage.speed]
    _print(f"rollforge {__version__}, Python {platform.python_version()}, {platform.machine()}, {device}\n")
    rows: list[Row] = []
    for found in run_stages(names, device, full, chosen.seconds, lambda text: _print(text, sys.stderr)):
        rows += found
        _print(table(found))
    file = _write(rows, Path(chosen.output_dir), device)
    failed = [row for row in rows if row.ok is False]
    checked = sum(row.ok is not None for row in rows)
    summary = f"{checked - len(failed)} of {checked} checks passed on {device}" if checked else "Nothing was checked"
    _print(f"\n{summary}. All values: {file}")
    return 1 if failed else 0


def _device(wanted: str) -> str:
    import torch

    from rollforge.errors import UserError

    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise UserError("rollforge gpu: torch finds no CUDA device here; use --device cpu to check results on the CPU.")
    return "cuda" if there and wanted != "cpu" else "cpu"


def _write(rows: list[Row], folder: Path, device: str) -> Path:
    make_folder(folder)
    file = folder / "gpu.json"
    head = {"rollforge": __version__, "python": platform.python_version(), "device": device}
    write_json(file, {**head, "rows": [asdict(row) for row in rows]})
    return file


def _print(text: str, stream: TextIO | None = None) -> None:
    stream = stream or sys.stdout
    stream.write(text + "\n")
    stream.flush()
