"""The thread that records blocks: jobs in order, few of them waiting, and no error lost."""

from __future__ import annotations

from functools import partial
from threading import Event, current_thread

import pytest
import torch

from rollforge.errors import UserError
from rollforge.report.worker import WAITING, Worker


def test_jobs_run_in_order_in_another_thread_and_in_the_mode_of_the_caller() -> None:
    done: list[object] = []
    with Worker() as worker, torch.inference_mode():
        for n in range(20):
            worker.submit(partial(done.append, n))
        worker.submit(lambda: done.append((current_thread().name, torch.is_inference_mode_enabled())))
        worker.wait()
        assert done == [*range(20), ("rollforge-recording", True)]


def test_caller_waits_once_enough_jobs_wait() -> None:
    started, go, done = Event(), Event(), list[int]()

    def first() -> None:
        started.set()
        go.wait(10)

    with Worker() as worker:
        worker.submit(first)
        started.wait(10)
        for n in range(WAITING):
            worker.submit(partial(done.append, n))
        assert worker._jobs.full()
        assert not done
        go.set()
    assert done == [*range(WAITING)]  # the end of the context has waited for them


def test_error_of_a_job_reaches_the_caller_and_ends_the_work() -> None:
    done: list[int] = []

    def fails() -> None:
        raise UserError("The disk is full.")

    with Worker() as worker:
        worker.submit(fails)
        with pytest.raises(UserError, match="disk is full"):
            worker.wait()
        with pytest.raises(UserError, match="disk is full"):
            worker.submit(lambda: done.append(0))
    assert not done
