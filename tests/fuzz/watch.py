"""Feeds damaged inputs to a door of the package, watches time and memory, and counts.

``ROLLFORGE_FUZZ=5`` makes five times as many inputs, for longer runs. ``make test-all`` makes twice as many.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rollforge.errors import UserError

TIMES = int(os.environ.get("ROLLFORGE_FUZZ") or 1)
SECONDS = 5  # of computing on one input
STUCK = 60  # seconds by the clock, on a machine that may be busy with other things
MEMORY = 500  # MB that one input may take
MADE: defaultdict[str, Counter[str]] = defaultdict(Counter)
"""How many inputs of each kind ended in what."""

ERROR, RESULT = "errors", "results"


class Hang(BaseException):
    """No part may take it for an error of its own."""


def fuzz(
    kind: str, inputs: int, drawn: st.SearchStrategy[Any], door: Callable[[Any], str], elsewhere: bool = False
) -> None:
    """Feeds so many inputs to a door, which says what came of each: ``ERROR``, ``RESULT``, or an exception.

    ``elsewhere`` is for a door that leads to a process which watches itself.
    """
    wanted, before = inputs * TIMES, MADE[kind].total()

    @settings(
        max_examples=wanted, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(drawn)
    def each(one: Any) -> None:
        with nullcontext() if elsewhere else watched():
            outcome = door(one)
        MADE[kind][outcome] += 1

    each()
    assert MADE[kind].total() - before >= wanted


def answered(call: Callable[[], Any], right: Callable[[Any], None]) -> str:
    """What came of a call: an error that a person can read, or an answer that ``right`` asserts to be one."""
    try:
        answer = call()
    except UserError as error:
        readable(str(error))
        return ERROR
    right(answer)
    return RESULT


def readable(sentence: str) -> None:
    """Asserts that an error is one line that leaves the terminal as it is."""
    assert sentence.strip()
    assert not [each for each in sentence if unicodedata.category(each) == "Cc"], ascii(sentence)
    assert len(sentence) < 3000, f"{len(sentence)} characters"


@contextmanager
def watched() -> Iterator[None]:
    """Raises ``AssertionError`` for a block that computes or waits too long, or takes too much memory."""

    def stop(number: int, _: Any) -> None:
        raise Hang(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, STUCK)
    faulthandler.dump_traceback_later(2 * STUCK, exit=True)  # for code that hears no signal
    start = _peak(fresh=True)
    try:
        yield
    except Hang as hang:
        raise AssertionError(f"it hangs ({hang})") from hang
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
    assert _peak() - start < MEMORY, f"it took {_peak() - start} MB"


def summary() -> list[str]:
    """The counts, a line for each kind."""
    lines = [
        f"  {kind:12} {made.total():6,}: {', '.join(f'{count:,} {what}' for what, count in sorted(made.items()))}"
        for kind, made in MADE.items()
    ]
    return [f"damaged inputs: {sum(made.total() for made in MADE.values()):,}", *lines] if lines else []


def _peak(fresh: bool = False) -> int:
    """The most memory that this process has held, in MB; a ``fresh`` count starts now where the system can."""
    try:
        if fresh:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) // 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
