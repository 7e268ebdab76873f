"""Measures a video file, frame by frame, in memory that does not grow with its length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rollforge.files.writing import make_folder
from rollforge.metrics.base import Metric, check_length
from rollforge.metrics.curves import CurveFile
from rollforge.report.metric_runner import MetricRunner
from rollforge.report.progress import Progress
from rollforge.video.reader import frames, probe, stills
from rollforge.video.sheet import ContactSheet

TOGETHER = 12  # frames that are measured at once
SHORT = 600  # frames that are sooner read in order than found one by one


def measure_file(
    file: Path,
    prompt: str,
    metrics: Sequence[Metric],
    curves: Path,
    size: tuple[int, int] | None = None,
    exit_if_requested: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Any], ContactSheet]:
    """Writes the curves of a video. Returns its entry for the manifest, and its contact sheet.

    Args:
        file: the video, of any tool.
        prompt: its prompt.
        metrics: what to measure.
        curves: the CSV file to write, complete or not at all. Not written if no metric has a curve.
        size: width and height that the metrics expect; every n-th pixel of an enlarged video is taken.
        exit_if_requested: called between frames; may raise to end the work.

    Raises:
        UserError: for a video that cannot be read to its end, or is shorter than a metric needs, and a metric that
            cannot measure it at all.
    """
    info = probe(file)
    check_length(metrics, info.frames / info.fps, str(file))
    scale = enlarged(size, (info.width, info.height))
    measures, sheet = MetricRunner(metrics), ContactSheet(prompt, info.frames, info.fps)
    measures.start(prompt, info.fps)
    make_folder(curves.parent)
    partial = curves.with_suffix(".partial.csv")
    try:
        table, at = CurveFile(partial, info.fps), 0
        with Progress(info.frames, info.fps, file.stem[:14]) as bar:
            for block in _blocks(file, scale):
                exit_if_requested()
                table.add(measures.update(block[0], at), at)
                sheet.add(block[0].numpy())
                at += block.shape[1]
                bar.add(block.shape[1])
        curves.unlink(missing_ok=True)
        if partial.stat().st_size:
            partial.replace(curves)
    finally:
        partial.unlink(missing_ok=True)
    figures = {name: round(value, 6) for name, value in measures.finish().items()}
    failed = {"failed_metrics": measures.out} if measures.out else {}
    entry = {"file": file.name, "prompt": prompt, "fps": info.fps, "frames": at, "size": [info.width, info.height]}
    return entry | {"measured": figures, "measured_from": "file"} | failed, sheet


def picked(file: Path, label: str, size: tuple[int, int] | None = None) -> ContactSheet:
    """The contact sheet of a finished video, of which no more is read than is shown."""
    info = probe(file)
    scale = enlarged(size, (info.width, info.height))
    sheet = ContactSheet(label, info.frames, info.fps)
    if info.frames <= SHORT:
        for frame in frames(file):
            sheet.add(frame[None, ::scale, ::scale])
        return sheet
    sheet.images = [still[::scale, ::scale].copy() for still in stills(file, sheet.picks, backend="pyav")]
    sheet.seen = info.frames
    return sheet


def enlarged(size: tuple[int, int] | None, found: tuple[int, int]) -> int:
    """By how much a video was enlarged; 1 where it is not a whole number, the same both ways."""
    if size is None or found[0] % size[0] or found[1] % size[1] or found[0] // size[0] != found[1] // size[1]:
        return 1
    return found[0] // size[0]


def _blocks(file: Path, scale: int) -> Iterator[Tensor]:
    """Frames ``[1, T, H, W, 3]``."""
    pictures = frames(file)
    while block := list(islice(pictures, TOGETHER)):
        yield torch.from_numpy(np.stack([picture[::scale, ::scale] for picture in block]))[None]
