"""The processes of one run: one prints errors, the end of one ends all, and results are gathered."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import distributed
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined] # public, as its documentation says
from torch.distributed.distributed_c10d import _get_default_store  # there is no public way to it; torch 2.9 to 2.13

from rollforge.errors import UserError

PATIENCE = timedelta(days=365)  # one process may roll for hours after another is done
PAUSE, GRACE = 0.25, 3.0  # seconds between two looks at the others, and for them to notice
LINGER = 60.0  # seconds that rank 0 waits after a signal for the others to finish their block and save
SAVING = 900.0  # seconds that the others wait for rank 0 to do so; Lightning kills it as soon as one of them has left
SIGNALLED = 128  # exit codes above it name a signal
SPEAKER, FAILED, SAVED = "speaker", "failed", "saved"


class Ranks(Callback):
    """Communication between the processes of a run. Does nothing for one process.

    Processes learn of a failure through the store that ``torch.distributed`` has opened anyway, not through a
    collective, because they may be in the middle of an hour of rolling.
    """

    def __init__(self) -> None:
        self.rank, self.code, self.over, self.stopped = 0, 1, False, False
        self.store: Store | None = None
        self.server: Store | None = None  # where the processes meet, if this one has opened it
        self.group: distributed.ProcessGroup | None = None
        self.launcher: Any = None
        self.rest, self.watcher = threading.Event(), threading.Thread(target=self._watch, daemon=True)

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Starts to watch, once there are other processes."""
        if trainer.world_size == 1 or self.store is not None:
            return
        self.rank, self.launcher = trainer.global_rank, trainer.strategy.launcher
        self.group = distributed.new_group(backend="gloo", timeout=PATIENCE)
        self.store = PrefixStore("rollforge", _get_default_store())
        self.watched = PrefixStore("rollforge", _get_default_store().clone())  # type: ignore[attr-defined]
        self.watcher.start()
        atexit.register(self._leave)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Around a whole run: lets only one process print why it ended."""
        try:
            yield
        except SystemExit as leaving:
            self.code = leaving.code if isinstance(leaving.code, int) else 1
            self.stopped = self.code > SIGNALLED and not isinstance(leaving.__context__, KeyboardInterrupt)
            raise
        except BaseException as error:
            self.code = 2 if isinstance(error, UserError) else 130 if isinstance(error, KeyboardInterrupt) else 1
            if self._speaks(error):
                raise
            if self.store is not None:
                time.sleep(GRACE)  # in which the watcher ends this process, with the code of the one that speaks
            raise SystemExit(self.code) from None
        self.over = True

    def gather(self, result: Any) -> list[Any] | None:
        """The results of all processes, by rank, once all are there; on rank 0 only."""
        if self.group is None:
            return [result]
        gathered = [None] * distributed.get_world_size() if self.rank == 0 else None
        try:
            distributed.gather_object(result, gathered, group=self.group)
        except RuntimeError as error:
            raise UserError(
                "Another process of this run ended before its work was done; run the same command again to make what "
                "is missing."
            ) from error
        self.over = self.rank != 0
        return gathered

    def highest(self, number: int) -> int:
        """The highest of the numbers of all processes, each of which must call this."""
        if self.group is None:
            return number
        numbers = torch.tensor([number])
        distributed.all_reduce(numbers, distributed.ReduceOp.MAX, group=self.group)
        return int(numbers)

    def _speaks(self, error: BaseException) -> bool:
        """Whether this process prints the error: of several, the first to ask."""
        if self.store is None:
            return _first_of_its_node()
        if isinstance(error, KeyboardInterrupt):  # all have heard it
            return self.rank == 0
        try:
            return bool(self.store.compare_set(SPEAKER, "", str(self.rank)) == str(self.rank).encode())
        except RuntimeError:  # the store has ended with its process, which has said why
            return False

    def _watch(self) -> None:
        while not self.over:
            self.rest.wait(PAUSE)
            try:
                code = int(self.watched.get(FAILED)) if self.watched.check([FAILED]) else None
            except RuntimeError:
                code = 1
            if code is not None and not self.over:
                self._end_children()
                sys.stdout.flush()
                os._exit(code)

    def _leave(self) -> None:
        """At the end of the process: notifies the others, and joins the watcher before the interpreter kills it."""
        self._notify()
        self.rest.set()
        self.watcher.join(GRACE)

    def _notify(self) -> None:
        """If the work is not done, ends the others too."""
        if self.over or self.store is None:
            return
        self.over = True
        try:
            if self.stopped:
                self._wait_for_the_others(self.store)
            self.store.set(FAILED, str(self.code))
        except RuntimeError:
            return
        if self.rank == 0:
            self._end_children()
        else:
            time.sleep(GRACE)  # rank 0 ends this process; were it gone before, Lightning would kill rank 0

    def _wait_for_the_others(self, store: Store) -> None:
        """After a signal each process saves its own video. Rank 0 passes the signal on, and is the last to leave."""
        deadline = time.monotonic() + LINGER
        if self.rank:
            store.set(f"{SAVED}-{self.rank}", "")
            limit = time.monotonic() + SAVING
            while not store.check([FAILED]) and time.monotonic() < limit:  # rank 0 ends this process
                time.sleep(PAUSE)
            return
        self._send(signal.Signals(self.code - SIGNALLED))
        saved = [f"{SAVED}-{rank}" for rank in range(1, distributed.get_world_size())]
        children = getattr(self.launcher, "procs", [])
        while not store.check(saved) and time.monotonic() < deadline:
            if children and all(process.poll() is not None for process in children):
                return
            time.sleep(PAUSE)

    def _end_children(self) -> None:
        """Ends the others. Lightning forgets them first: it kills rank 0 too when it sees that one has ended."""
        children = getattr(self.launcher, "procs", [])
        ended, children[:] = list(children), []
        for process in ended:
            process.kill()

    def _send(self, number: signal.Signals) -> None:
        for process in getattr(self.launcher, "procs", []):
            process.send_signal(number)


def _first_of_its_node() -> bool:
    """True but for processes that a launcher such as torchrun started next to others: they make the same mistakes."""
    local = os.environ.get("LOCAL_RANK", "0") if "TORCHELASTIC_RUN_ID" in os.environ else "0"
    return os.environ.get("SLURM_LOCALID", local) == "0"
