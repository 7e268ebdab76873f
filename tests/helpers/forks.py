"""Processes that a fork server starts; as a script, a ``python`` that asks it. Needs the standard library alone."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

EVERYWHERE = "ROLLFORGE_BEFORE"  # in the environment: code that is run first in what a forked process starts, too


class Process:
    """A forked process, used like ``subprocess.Popen``.

    Args:
        folder: of the fork server.
        argv: what follows ``python``: ``-m``, a module, and its arguments.
        streams: file descriptors of its standard input, output and error.
        before: code that is run first; the processes that it starts run ``EVERYWHERE`` of their environment.
    """

    def __init__(
        self, folder: Path, argv: Sequence[str], streams: Sequence[int], cwd: Path | str = ".",
        env: dict[str, str] | None = None, before: str = "",
    ) -> None:  # fmt: skip
        self.returncode: int | None = None
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(folder / "socket"))
        order = {"argv": list(argv), "cwd": os.path.abspath(cwd), "env": env or dict(os.environ), "before": before}
        socket.send_fds(self.socket, [f"{json.dumps(order)}\n".encode()], list(streams))
        self.pid = int(self._line())

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, or minus the signal that ended it. Raises ``TimeoutError``."""
        if self.returncode is None:
            self.socket.settimeout(timeout)
            self.returncode = int(self._line() or -signal.SIGKILL)
            self.socket.close()
        return self.returncode

    def poll(self) -> int | None:
        """The same, or None while it runs."""
        if self.returncode is None:
            self.socket.settimeout(0)
            try:
                self.socket.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return None
            return self.wait()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def _line(self) -> str:
        """What the server says next; nothing where it has gone."""
        line = b""
        while not line.endswith(b"\n"):
            if not (more := self.socket.recv(1)):
                return ""
            line += more
        return line.decode()


class Captured(Process):
    """A process whose output can be read when it has ended."""

    def __init__(self, folder: Path, argv: Sequence[str], **how: Any) -> None:
        self.files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115 # closed when it is read
        with open(os.devnull) as nothing:
            super().__init__(folder, argv, [nothing.fileno(), *(file.fileno() for file in self.files)], **how)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits; its output and its errors."""
        self.wait(timeout)
        outputs = []
        for file in self.files:
            file.seek(0)
            outputs.append(file.read().decode())
            file.close()
        return outputs[0], outputs[1]


class Forks:
    """A fork server in a process of its own, which the test processes of one run share.

    The first use starts it. It ends when nobody holds its standard input, a named pipe, open for writing.

    Args:
        place: a folder that the test processes share, or its own.
        python: the interpreter, where it is not this one.
    """

    def __init__(self, place: Path, python: Path | str = sys.executable) -> None:
        self.place, self.python = place / "forks", str(python)
        self.held: int | None = None

    def start(self, *argv: str, **how: Any) -> Captured:
        """``python`` with arguments that begin with ``-m``; how: see ``Process``."""
        return Captured(self.folder, argv, **how)

    def run(self, *argv: str, timeout: float = 300, **how: Any) -> subprocess.CompletedProcess[str]:
        """The same to its end."""
        process = self.start(*argv, **how)
        output, errors = process.communicate(timeout)
        return subprocess.CompletedProcess(list(argv), process.wait(), output, errors)

    def log(self, log: Path, *argv: str, **how: Any) -> Process:
        """The same with all its output appended to a file."""
        with open(os.devnull) as nothing, log.open("ab") as file:
            return Process(self.folder, argv, [nothing.fileno(), file.fileno(), file.fileno()], **how)

    @property
    def folder(self) -> Path:
        """Where the server listens."""
        if self.held is None:
            with self.place.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                try:
                    self.held = os.open(self.place / "users", os.O_WRONLY | os.O_NONBLOCK)
                except OSError:  # nobody reads it, or it is not there
                    self.held = self._served()
        return self.place

    def close(self) -> None:
        if self.held is not None:
            os.close(self.held)

    def _served(self) -> int:
        """Starts the server; the end of its standard input."""
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()
        os.mkfifo(self.place / "users")
        held = os.open(self.place / "users", os.O_RDWR)
        line = [self.python, str(Path(__file__).with_name("fork_server.py")), str(self.place)]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        with open(self.place / "users") as users:
            server = subprocess.Popen(
                line, env=env, text=True, stdin=users, stdout=subprocess.PIPE, start_new_session=True
            )
        assert server.stdout
        assert server.stdout.readline() == "ready\n", "the fork server has not started"
        server.stdout.close()
        server.returncode = 0  # it is left to itself
        return held


def instead_of_python(folder: Path, argv: list[str]) -> int:
    """Runs ``python`` with these arguments, forked where that can be."""
    real = (folder / "real").read_text()
    if argv[:1] != ["-m"]:
        os.execv(real, [real, *argv])
    process = Process(folder, argv, [0, 1, 2], before=os.environ.get(EVERYWHERE, ""))

    def forward(number: int, _: Any) -> None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)

    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(each, forward)
    code = process.wait()
    if code < 0:
        with suppress(ValueError, OSError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(instead_of_python(Path(__file__).parent, sys.argv[1:]))
