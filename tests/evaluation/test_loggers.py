"""What Lightning's loggers get."""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from rollforge.evaluation.evaluation import Evaluation
from rollforge.evaluation.loggers import log_to
from rollforge.evaluation.video_result import POINTS, DownsampledCurve, VideoResult
from rollforge.metrics.summary import summarise

TENSORBOARD = any(find_spec(name) for name in ("tensorboard", "tensorboardX"))


class Recorder:
    """A logger that keeps what it is given, as W&B's would send it."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.closed: list[str] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.logged.append((step, dict(metrics)))

    def save(self) -> None:
        self.closed.append("saved")

    def finalize(self, status: str) -> None:
        self.closed.append(status)


def video(prompt: str, curve: Any, fps: float = 8.0, label: str = "Window") -> VideoResult:
    curve = np.asarray(curve, float)
    measured = VideoResult({"file": f"{prompt}.mp4", "prompt": prompt, "fps": fps}, label, Path("none.curves.csv"))
    measured.summary, measured.thin = summarise({"light": curve}, fps, 1.0), {"light": DownsampledCurve.of(curve, fps)}
    return measured


def evaluation(*videos: VideoResult) -> Evaluation:
    return Evaluation(list(videos), 1.0, ["Light"], "Window")


def test_a_logger_gets_each_frame_with_its_interval_and_the_drift() -> None:
    logger = Recorder()
    log_to([logger], evaluation(video("a", np.arange(20)), video("b", np.arange(20) + 2)))
    *frames, (last, summary) = logger.logged
    assert [step for step, _ in frames] == list(range(20))
    assert frames[3][1] == pytest.approx({"test/light": 4.0, "test/light/low": 3.0, "test/light/high": 5.0})
    assert last == 19
    assert summary["test/summary/light/level"] == pytest.approx(10.5)
    assert summary["test/summary/light/drift_15"] == pytest.approx(17)
    assert {"test/summary/light/level/low", "test/summary/light/slope_per_minute"} <= summary.keys()
    assert logger.closed == ["saved", "success"]


def test_long_videos_are_bounded_and_policies_are_named() -> None:
    logger = Recorder()
    log_to([logger], evaluation(video("a", np.arange(57_600), 16.0), video("a", np.ones(57_600), 16.0, "RollingSink")))
    steps = [step for step, values in logger.logged if "test/Window/light" in values]
    assert 900 < len(steps) <= POINTS
    assert steps == sorted(steps)
    assert steps[-1] > 57_000
    assert any("test/RollingSink/light" in values for _, values in logger.logged)


def test_the_csv_logger_keeps_the_curves(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    logger.finalize("success")  # as the Trainer leaves it
    log_to([logger], evaluation(video("a", np.arange(20.0))))
    with (Path(logger.log_dir) / "metrics.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [float(row["test/light"]) for row in rows if row["test/light"]] == list(range(20))
    assert float(rows[-1]["test/summary/light/level"]) == 9.5


@pytest.mark.skipif(not TENSORBOARD, reason="neither tensorboard nor tensorboardX is installed")
def test_tensorboard_keeps_the_curves(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.finalize("success")
    log_to([logger], evaluation(video("a", np.arange(20.0))))
    assert sum(path.stat().st_size for path in Path(logger.log_dir).glob("events*")) > 1000


def test_no_logger_costs_nothing() -> None:
    class Untouched:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"{name} was computed for nobody")

    log_to([], Untouched())  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="for nobody"):
        log_to([object()], Untouched())  # type: ignore[arg-type, list-item]
