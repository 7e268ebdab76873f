"""Values of the videos that ``test`` has generated in a run folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from rollforge.data.requests import Request
from rollforge.evaluation.evaluation import Evaluation
from rollforge.evaluation.horizon import Horizon
from rollforge.evaluation.reading import measure_file, picked
from rollforge.evaluation.truth import truth
from rollforge.evaluation.video_result import VideoResult
from rollforge.metrics.base import Metric, directions
from rollforge.pipeline import Pipeline
from rollforge.report.run import Entry, RunFolder
from rollforge.video.sheet import ContactSheet

log = logging.getLogger(__name__)


def evaluate(
    pipeline: Pipeline, metrics: Sequence[Metric], folder: RunFolder, requests: Sequence[Request]
) -> Evaluation:
    """Reads the curves of the finished videos of ``requests``.

    A video that an earlier ``predict`` has made without metrics is measured from its file, codec noise included.
    """
    ruler, videos, better = Horizon.of(pipeline), [], directions(metrics)
    for entry in _finished(folder, requests):
        curves = folder.path / Path(entry["file"]).with_suffix(".curves.csv")
        if "measured" not in entry:
            log.warning("%s was made without metrics; it is measured as it was encoded.", entry["file"])
            measured, _ = measure_file(folder.path / entry["file"], entry["prompt"], metrics, curves, pipeline.size)
            entry = entry | {
                key: measured[key] for key in ("measured", "measured_from", "failed_metrics") if key in measured
            }
            folder.record(entry)
        video = VideoResult(entry, label(entry), curves)
        video.read(ruler, better)
        videos.append(video)
    classes = [type(metric).__name__ for metric in metrics]
    policy = type(pipeline.policy).__name__
    block = pipeline.backbone.spec.block
    true = truth(pipeline, metrics, requests)
    return Evaluation(videos, ruler.seconds, classes, policy, folder.config_hash, true, block=block, better=better)


def sheets(pipeline: Pipeline, folder: RunFolder, evaluation: Evaluation) -> list[ContactSheet]:
    """A row for each video of the config's policy."""
    own = evaluation.groups.get(evaluation.policy or "", [])
    return [picked(folder.path / video.entry["file"], video.prompt, pipeline.finished_size) for video in own]


def label(entry: Entry) -> str:
    """The name of a video's policy; with a second policy, as in the file name."""
    return Path(Path(entry["file"]).stem).suffix[1:] or str(entry["policy"])


def _finished(folder: RunFolder, requests: Sequence[Request]) -> Iterator[Entry]:
    """Entries in the order of the requests."""
    for request in requests:
        name = f"{folder.name(request)}."
        yield from (entry for file, entry in sorted(folder.entries.items()) if file.startswith(name))
