"""DistributedDataParallel from plain Python: two processes train, measure and predict what one does."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Forks
from small import one_thread  # noqa: F401 - a fixture is used by being here
from torch import Tensor

from rollforge.objectives import SelfForcing, self_forcing

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import two_networks  # noqa: E402 # now that they can be found
import two_ranks  # noqa: E402


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_two(forks: Forks, *arguments: str) -> None:
    """Runs a module of this folder in two processes."""
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent / "helpers")]), "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "GLOO_SOCKET_IFNAME": "lo", "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    running = [forks.start("-m", *arguments, env={**environment, "RANK": rank, "LOCAL_RANK": rank}) for rank in "01"]
    for process in running:
        _, errors = process.communicate(timeout=300)
        assert process.wait() == 0, errors


def test_two_processes_train_measure_and_predict_what_one_does(tmp_path: Path, forks: Forks) -> None:
    (tmp_path / "alone").mkdir()
    alone = two_ranks.main(tmp_path / "alone")
    run_two(forks, "two_ranks", str(tmp_path))
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


def replayed(steps: list[tuple[Any, Any]], monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Tensor]]:
    """The weights after the steps of both processes, computed in this one: ``[(steps of rank 0, steps of rank 1)]``."""
    own = two_networks.module(SelfForcing)
    objective, exits = own.objective, list[int]()
    assert isinstance(objective, SelfForcing)
    assert objective.critic is not None
    assert objective.teacher is not None
    objective.teacher.requires_grad_(False)
    networks = {False: own.backbone, True: objective.critic}
    for objective.step, both in enumerate(steps):
        trained = networks[objective.trains_critic]
        for network in networks.values():
            network.requires_grad_(network is trained)
        for rank, (state, clips) in enumerate(both):
            torch.set_rng_state(state)
            rows = range(2 * rank, 2 * rank + 2)
            monkeypatch.setattr(self_forcing, "own_rows", lambda _, rows=rows: rows)

            def drawn(steps: list[int], rank: int = rank) -> int:
                index = int(torch.randint(len(steps), ()))
                exits.append(index if rank == 0 else exits[-1])
                return exits[-1]

            monkeypatch.setattr(self_forcing, "drawn_exit", drawn)
            (objective(own.pipeline, clips)["loss"] / 2).backward()
        two_networks.sgd(trained.parameters()).step()
        trained.zero_grad()
    return {"student": own.backbone.state_dict(), "critic": objective.critic.state_dict()}


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.matrix)])
def test_two_processes_train_student_and_critic_on_the_mean_of_their_gradients(
    strategy: str, tmp_path: Path, forks: Forks, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_two(forks, "two_networks", str(tmp_path), strategy)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in "01"]
    steps = [*zip(*(each["steps"] for each in ranks), strict=True)]
    assert not any(torch.equal(one["video"], other["video"]) for (_, one), (_, other) in steps)
    for name, weights in replayed(steps, monkeypatch).items():
        before = two_networks.network().state_dict()
        assert any(not torch.equal(weights[key], before[key]) for key in weights)
        for key, value in weights.items():
            torch.testing.assert_close(ranks[0]["weights"][name][key], value, atol=1e-6, rtol=1e-5)
