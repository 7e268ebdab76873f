"""DistributedDataParallel from plain Python: two processes train, measure and predict what one does."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest
import torch
from forks import Forks
from small import one_thread  # noqa: F401 - a fixture is used by being here

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import two_ranks  # noqa: E402 # now that it can be found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_processes_train_measure_and_predict_what_one_does(tmp_path: Path, forks: Forks) -> None:
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent / "helpers")]), "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "GLOO_SOCKET_IFNAME": "lo", "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    running = [
        forks.start("-m", "two_ranks", str(tmp_path), env={**environment, "RANK": rank, "LOCAL_RANK": rank})
        for rank in "01"
    ]
    (tmp_path / "alone").mkdir()
    alone = two_ranks.main(tmp_path / "alone")
    for process in running:
        _, errors = process.communicate(timeout=300)
        assert process.wait() == 0, errors
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in "01"]

    for found in ranks:
        for name, value in alone["trained"].items():
            torch.testing.assert_close(found["trained"][name], value, atol=1e-5, rtol=0)
            assert torch.equal(found["trained"][name], ranks[0]["trained"][name]), name
            assert torch.equal(found["loaded"][name], found["trained"][name]), name
    for name, mean in alone["measured"][0].items():
        shares = [found["measured"][0][name] for found in ranks]
        assert (2 * shares[0] + shares[1]) / 3 == pytest.approx(mean, rel=0.01)  # of two videos and of one
    first, second = (found["frames"] for found in ranks)
    for frames, expected in zip((first[0], second[0], first[1]), alone["frames"], strict=True):
        assert (frames.int() - expected.int()).abs().float().mean() < 0.5  # the weights were rounded otherwise
