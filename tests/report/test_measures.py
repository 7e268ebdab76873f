"""Metrics that ride along: each is counted for itself, and one that raises leaves the others alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rollforge.errors import UserError
from rollforge.metrics.base import Blocks, Metric
from rollforge.report.metric_runner import MetricRunner

FRAMES = torch.full((3, 2, 2, 3), 7, dtype=torch.uint8)


class Sum(Metric):
    def __init__(self, name: str, worst: int = 1000) -> None:
        self.name, self.worst = name, worst

    def start(self, prompt: str, fps: float, blocks: Blocks | None = None) -> None:
        self.total = 0

    def update(self, frames: Tensor, start: int) -> dict[str, Tensor]:
        self.total += len(frames)
        if self.total > self.worst:
            raise ZeroDivisionError("too many")
        return {self.name: torch.full((len(frames),), float(self.total))}

    def finish(self) -> dict[str, float]:
        return {f"{self.name}_total": float(self.total)}


def started(*metrics: Metric) -> MetricRunner:
    measures = MetricRunner(metrics)
    measures.start("a prompt", 8.0)
    return measures


def test_of_two_metrics_of_one_class_only_the_one_that_raises_is_put_out() -> None:
    measures = started(Sum("a"), Sum("b", worst=3), Sum("c"))
    assert measures.update(FRAMES, 0).keys() == {"a", "b", "c"}
    assert measures.update(FRAMES, 3).keys() == {"a", "c"}
    assert list(measures.out) == ["Sum 2"]
    assert "too many" in measures.out["Sum 2"]
    assert measures.finish() == {"a_total": 6.0, "c_total": 6.0}


def test_what_was_put_out_stays_out_and_the_others_go_on() -> None:
    measures = started(Sum("a"), Sum("b", worst=3))
    measures.update(FRAMES, 0)
    measures.update(FRAMES, 3)
    again = started(Sum("a"), Sum("b", worst=3))
    again.load_state_dict(measures.state_dict())
    assert again.update(FRAMES, 6)["a"].tolist() == measures.update(FRAMES, 6)["a"].tolist() == [9.0] * 3
    assert again.out == measures.out


def test_the_given_metrics_are_left_as_they_are() -> None:
    metric = Sum("a")
    started(metric).update(FRAMES, 0)
    assert not hasattr(metric, "total")


def test_a_state_of_other_metrics_is_refused() -> None:
    state = started(Sum("a"), Sum("b")).state_dict()
    with pytest.raises(UserError, match="what Sum, Sum 2 has gathered, and there is Sum now"):
        started(Sum("a")).load_state_dict(state)
