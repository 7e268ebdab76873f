"""Processes that a run starts on one machine meet on its loopback interface, which other machines cannot reach.

torch itself would listen on every interface.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch import distributed

from rollforge.errors import UserError

HOST = "127.0.0.1"
BACKLOG = 1024
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


@contextmanager
def on_loopback(trainer: Any) -> Iterator[Any]:
    """In here the processes that ``trainer`` starts find each other through a store on the loopback interface.

    Yields the store, which must live as long as the processes do; None where there is one process, where others have
    started the processes, and where ``MASTER_ADDR`` names another machine.

    Raises ``UserError`` for several machines of which none is named.
    """
    place = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.num_nodes > 1 and type(place) is LightningEnvironment and "MASTER_ADDR" not in os.environ:
        raise UserError(
            f"trainer.num_nodes is {trainer.num_nodes}, but nothing says where the first machine is, for which this "
            "one would wait; set MASTER_ADDR, MASTER_PORT and NODE_RANK on each, or use torchrun or SLURM."
        )
    alone = trainer.num_devices * trainer.num_nodes == 1 or trainer.num_nodes > 1
    if alone or type(place) is not LightningEnvironment or place.creates_processes_externally:
        yield None
        return
    if os.environ.get("MASTER_ADDR", HOST) not in (HOST, "localhost"):
        yield None
        return
    server = socket.socket()
    server.bind((HOST, int(os.environ.get("MASTER_PORT", "0"))))
    server.listen(BACKLOG)
    port = server.getsockname()[1]
    store = distributed.TCPStore(  # type: ignore[attr-defined] # it is public, though not listed as such
        HOST, port, None, True, wait_for_workers=False, master_listen_fd=server.detach()
    )
    settings = {
        "MASTER_ADDR": HOST,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is there: no process is to open another
        **{name: os.environ.get(name, _interface()) for name in INTERFACES},
    }
    former = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield store
    finally:
        for name, value in former.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _interface() -> str:
    """The name of the loopback interface: ``lo`` on Linux, ``lo0`` on macOS."""
    return next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), "lo")
