"""Several processes make one video as one process does: to rounding, with the same bits in each."""

from __future__ import annotations

import os
import socket
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Forks
from small import one_thread  # noqa: F401 - a fixture is used by being here

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import one_video  # noqa: E402 # now that it can be found


@cache
def alone(name: str) -> dict[str, Any]:
    return one_video.rolled(one_video.CASES[name])


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_make_the_video_of_one(processes: int, tmp_path: Path, forks: Forks) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent / "helpers")]), "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo", "WORLD_SIZE": str(processes),
    }  # fmt: skip
    line = "-m", "one_video", str(tmp_path)
    running = [forks.start(*line, env={**environment, "RANK": str(rank)}) for rank in range(processes)]
    for process in running:
        _, errors = process.communicate(timeout=300)
        assert process.wait() == 0, errors
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(processes)]
    for name in one_video.CASES:
        expected = alone(name)
        assert expected["latents"].abs().max() < 100
        for found in (rank[name] for rank in ranks):
            torch.testing.assert_close(found["latents"], expected["latents"], atol=1e-5, rtol=1e-5, msg=name)
            assert torch.equal(found["latents"], ranks[0][name]["latents"]), name
            assert torch.equal(found["resumed"], found["latents"]), name
            assert found["bytes"] * processes == expected["bytes"], name
