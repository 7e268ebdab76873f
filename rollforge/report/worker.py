"""A thread that records finished blocks while the next one is generated."""

from __future__ import annotations

from collections.abc import Callable
from queue import Queue
from threading import Thread
from types import TracebackType
from typing import Self

from rollforge.pipeline.decoding import in_this_mode

Job = Callable[[], None]
WAITING = 2
"""Jobs that wait at most, so that what is not recorded yet takes little memory."""


class Worker:
    """Runs jobs one after another, in the order in which they came, in a thread of its own.

    A job runs in the gradient mode of its caller. One that raises is the last: later ones are dropped, and the next
    ``submit`` or ``wait`` raises its exception. As a context manager it ends the thread, after the jobs that are left.

    Args:
        waiting: jobs that wait at most; another one is submitted when one of them starts.
    """

    def __init__(self, waiting: int = WAITING) -> None:
        self._jobs: Queue[Job | None] = Queue(waiting)
        self._failure: BaseException | None = None
        self._thread = Thread(target=self._work, name="rollforge-recording", daemon=True)

    def submit(self, job: Job) -> None:
        """Runs a job later. Raises what an earlier one has raised."""
        self._raise()
        self._jobs.put(in_this_mode(job))

    def wait(self) -> None:
        """Returns when all jobs are done. Raises what one of them has raised."""
        self._jobs.join()
        self._raise()

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                if self._failure is None:
                    job()
            except BaseException as error:  # which the caller is to see, whatever it is
                self._failure = error
            finally:
                self._jobs.task_done()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._jobs.put(None)
        self._thread.join()
