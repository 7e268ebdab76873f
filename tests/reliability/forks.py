"""A server that forks a process for each command line, so that torch and Lightning are imported once.

It answers one JSON line for each that it is given: ``{"run": [arguments], "log": file, ...}`` with the process id, and
``{"wait": pid}`` with how the process ended: its exit code, or minus the signal. A run may be given ``environment``,
``pixels`` (to which its video is enlarged), ``file_size`` (bytes, as a quota) and ``before`` (code that is run first).
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
import traceback
from typing import Any, NoReturn

import torch
from lightning.pytorch.cli import LightningCLI

from rollforge.commands import lightning as command  # noqa: F401 # imported for every child
from rollforge.registry import builtins, registry
from rollforge.video import writer

OWN = LightningCLI.subcommands()


def child(order: dict[str, Any]) -> NoReturn:
    """Runs one command line and never returns."""
    code = 70
    try:
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ |= order.get("environment", {})
        writer.SMALL = order["pixels"]
        if limit := order.get("file_size"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        if plugin := order.get("before"):
            exec(plugin, {"__name__": "before"})
        from rollforge.cli import main

        own = {order["run"][0]: OWN[order["run"][0]]}
        LightningCLI.subcommands = staticmethod(lambda: own)  # type: ignore[method-assign] # a third faster
        code = main(order["run"])
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def answer(order: dict[str, Any]) -> Any:
    if "run" in order:
        pid = os.fork()
        if not pid:
            child(order)
        return pid
    pid, status = os.waitpid(order["wait"], 0 if order.get("block", True) else os.WNOHANG)
    if not pid:
        return None
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def serve() -> None:
    torch.set_num_threads(1)
    registry().load()
    for name in vars(builtins):
        if name.startswith("rollforge_register_"):
            getattr(builtins, name)(lambda where: __import__(where.split(":")[0]))
    logging.getLogger().handlers.clear()
    print("ready", flush=True)  # noqa: T201
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)  # noqa: T201


if __name__ == "__main__":
    serve()
