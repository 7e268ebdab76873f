"""A server that forks a process for each ``python -m rollforge ...``, so that torch and Lightning are imported once.

It listens on a Unix socket. A client sends one JSON object with ``argv``, ``cwd``, ``env`` and ``before`` (code that is
run first), and its standard streams; it receives the process id, then the exit code, or minus the signal. A process
whose client has gone is killed. It ends when the last user closes its standard input.

Inside, ``sys.executable`` is a script that asks this server: processes that a command starts are forked as well.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import logging
import os
import runpy
import selectors
import signal
import socket
import sys
import tempfile
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from small import LONGER, MODEL

REAL = sys.executable


def script(folder: Path) -> Path:
    """An interpreter for ``-m`` that has everything imported."""
    path = folder / "python"
    path.write_text(f"#!{REAL} -IS\n" + Path(__file__).with_name("forks.py").read_text())
    path.chmod(0o755)
    (folder / "real").write_text(REAL)
    return path


def prepare() -> None:
    """Imports what commands import. No thread may be started, nor autograd be used: neither survives a fork."""
    import torch

    from rollforge import cli
    from rollforge.commands import fit_other  # noqa: F401 # imported for every child
    from rollforge.registry import builtins, registry

    torch.set_num_threads(1)
    cli.import_matplotlib()
    registry().load()
    for name in vars(builtins):
        if name.startswith("rollforge_register_"):
            getattr(builtins, name)(lambda where: importlib.import_module(where.split(":")[0]))
    rehearse()
    registry.cache_clear()
    logging.getLogger().handlers.clear()
    gc.collect()
    gc.freeze()  # no child looks through all of torch and Lightning, which would copy its pages, too


def rehearse() -> None:
    """Does with a small config what every command does with its own, so that parsers and counts are there already."""
    import torch

    import rollforge
    from rollforge import trust
    from rollforge.budget import decoder, passes
    from rollforge.commands.parsed import ParsedCLI
    from rollforge.commands.typed import read

    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(json.dumps({"model": MODEL}))
        with trust.guarded():
            for command in ("predict", "test", "fit"):
                ParsedCLI(command, read([f"--config={config}"]))
        for model in (MODEL, LONGER):
            config.write_text(json.dumps({"model": model}))
            pipeline = rollforge.load(config)
            backbone, codec = pipeline.backbone.train(), pipeline.codec.train()  # as they are when a command counts
            decoder.footprint(codec, backbone.spec, torch.float32, None)
            passes.activations(backbone, torch.float32)


def child(order: dict[str, Any], streams: list[int]) -> NoReturn:
    """Runs one command line as an interpreter would, and never returns."""
    code: Any = 70
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        # Those of the server may be streams of another kind. They stay open until the process ends.
        sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115
        sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = sys.__stderr__ = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
        os.chdir(order["cwd"])
        os.environ.clear()
        os.environ.update(order["env"])
        sys.path[:0] = filter(None, order["env"].get("PYTHONPATH", "").split(os.pathsep))
        importlib.invalidate_caches()
        exec(order["before"], {"__name__": "before"})
        sys.argv = order["argv"][1:]  # without -m
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as leaving:
        code = leaving.code if leaving.code is not None else 0
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        with suppress(BaseException):
            threading._shutdown()  # as the end of an interpreter does
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


class Server:
    """Forks what clients ask for, and tells them how it ended."""

    def __init__(self, folder: Path) -> None:
        self.selector = selectors.DefaultSelector()
        self.clients: dict[int, socket.socket | None] = {}  # by process; None where it has gone
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(folder / "socket"))
        self.listener.listen()
        self.ended, wake = os.pipe()
        for end in (self.ended, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for source in (self.listener, self.ended, 0):
            self.selector.register(source, selectors.EVENT_READ)

    def serve(self) -> None:
        """Until standard input is closed."""
        while True:
            for key, _ in self.selector.select():
                if key.fileobj == 0:
                    return self.close()
                if key.fileobj is self.listener:
                    self.accept()
                elif key.fileobj == self.ended:
                    os.read(self.ended, 4096)
                    self.reap()
                else:
                    self.drop(key.data)

    def close(self) -> None:
        """Kills what is left."""
        for pid in self.clients:
            os.kill(pid, signal.SIGKILL)

    def accept(self) -> None:
        client, _ = self.listener.accept()
        data, streams, _, _ = socket.recv_fds(client, 1 << 20, 3)
        while not data.endswith(b"\n"):
            data += client.recv(1 << 20)
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for each in (client, self.listener, *filter(None, self.clients.values())):
                each.close()
            self.selector.close()
            child(json.loads(data), streams)
        for stream in streams:
            os.close(stream)
        client.sendall(f"{pid}\n".encode())
        self.clients[pid] = client
        self.selector.register(client, selectors.EVENT_READ, pid)

    def reap(self) -> None:
        """Tells the clients of processes that have ended."""
        while self.clients:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            if client := self.clients.pop(pid):
                with suppress(OSError):
                    client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
                self._hang_up(client)

    def drop(self, pid: int) -> None:
        """Kills the process of a client that has gone."""
        if client := self.clients.get(pid):
            self._hang_up(client)
            self.clients[pid] = None
            os.kill(pid, signal.SIGKILL)

    def _hang_up(self, client: socket.socket) -> None:
        self.selector.unregister(client)
        client.close()


if __name__ == "__main__":
    place = Path(sys.argv[1])
    sys.executable = str(script(place))
    del sys.path[0]  # the folder of this file, which no command knows
    prepare()
    server = Server(place)
    print("ready", flush=True)  # noqa: T201
    server.serve()
