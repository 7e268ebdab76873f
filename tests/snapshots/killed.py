"""Saves snapshots and latents in children that are killed, and says what is found after each kill.

Ten times in a row at a random time after the first save; then just before each of the first few calls that change
something on the disk, twice in a row and in a folder of its own.

The children are forked, so that torch is imported once.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import torch

from rollforge.snapshots import LatentStore, SnapshotStore
from rollforge.snapshots.folder import numbered

BLOCK = 3
MOMENTS = {"fsync": 9, "replace": 5, "unlink": 9}


def state(number: int) -> dict[str, Any]:
    return {"number": number, "large": torch.full((100_000,), float(number)), "rest": [number, torch.tensor(number)]}


def child(folder: Path, number: int) -> NoReturn:
    """Goes on from a number until it is killed."""
    store, latents = SnapshotStore(folder), LatentStore(folder)
    latents.truncate(number * BLOCK)
    while True:
        latents.append([torch.full((1, BLOCK, 1, 10, 10), float(number))], number * BLOCK)
        number += 1
        store.save(number, state(number), {"of": number})


def killed_at(function: str, calls: int) -> None:
    owner: Any = os if function == "fsync" else Path
    real, left = getattr(owner, function), [calls]

    def counted(*given: Any, **named: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given, **named)

    setattr(owner, function, counted)


def found(folder: Path) -> dict[str, Any]:
    """What is there after a kill, and whether all of it belongs together."""
    snapshot = SnapshotStore(folder).newest()
    number = snapshot.number if snapshot else 0
    latents = LatentStore(folder)
    blocks = list(latents.read(number * BLOCK))
    right = [block.unique().tolist() for block in blocks] == [[float(n)] for n in range(number)]
    if snapshot:
        kept = snapshot.state
        right &= kept["number"] == number == snapshot.identity["of"] and kept["rest"][0] == number
        right &= bool((kept["large"] == number).all()) and kept["rest"][1].item() == number
    return {"number": number, "right": right, "frames": latents.frames}


def kill(folder: Path, number: int, function: str = "", calls: int = 0) -> dict[str, Any]:
    """Starts a child, has it killed, and says what it left."""
    pid = os.fork()
    if not pid:
        if function:
            killed_at(function, calls)
        child(folder, number)
    if not function:
        while not any(each > number for each, _ in numbered(folder, "snapshot")):
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.1))
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    outcome = found(folder) | {"signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0}
    sys.stdout.write(json.dumps(outcome) + "\n")
    sys.stdout.flush()  # or the next child would have it too
    return outcome


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    number = 0
    for _ in range(10):
        number = kill(folder, number)["number"]
    for function, most in MOMENTS.items():
        for calls in range(1, most + 1):
            one = folder.with_name(f"{function}-{calls}")
            kill(one, kill(one, 0, function, calls)["number"], function, calls)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
