"""The proof: the shipped network where the truth is known, before and after a refinement at toy size."""

from __future__ import annotations

import sys

import pytest
import torch
from rollforge_motion import proof
from rollforge_motion.command import SHIPPED, run
from rollforge_motion.data import ShiftedWorld
from rollforge_motion.flow import RaftFlow
from rollforge_motion.modules import RefinedMotion

PAIRS, STEPS = 24, 8


def refined(domain: str, loss: str) -> RaftFlow:
    """The shipped network after a few steps of plain AdamW."""
    torch.manual_seed(0)
    module = RefinedMotion(loss=loss, label_iterations=6, iterations=3)  # type: ignore[arg-type] # a Literal
    clips = ShiftedWorld(domain)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(module.network.parameters(), module.rate)
    for step in range(STEPS):
        video = torch.stack([clips[2 * step + n]["video"] for n in range(2)])
        optimizer.zero_grad()
        module.losses({"video": video, "caption": ["", ""]})["loss"].backward()
        optimizer.step()
    flow = RaftFlow(iterations=6)
    flow.network.load_state_dict(module.network.state_dict())
    return flow


@pytest.mark.parametrize("domain", ["codec", pytest.param("textures", marks=pytest.mark.matrix)])
def test_the_proof_at_toy_size(domain: str, capsys: pytest.CaptureFixture[str]) -> None:
    tested = proof.pairs(domain, PAIRS)  # type: ignore[arg-type]
    flows = {**proof.baselines(), "before": RaftFlow(iterations=6).between}
    flows |= {f"after, {loss}": refined(domain, loss).between for loss in ("labels", "warp", "cycle")}
    found = {name: proof.errors(flow, tested) for name, flow in flows.items()}
    with capsys.disabled():
        sys.stdout.write(f"\n{domain}\n{proof.table(found, 'before')}")
    apart = sorted({round(float(each.flow.norm(dim=2).max()), 1) for each in tested})
    assert 0.3 < apart[0] < 1
    assert apart[-1] > 5
    assert max(found["zero"]["ground"]) == 0
    assert 1.5 < proof.interval(found["zero"]["things"]).mean < 4
    assert proof.interval(found["before"]["things"]).mean < proof.interval(found["zero"]["things"]).mean
    changed = proof.difference(found["after, labels"], found["before"], "things")
    assert changed.mean != 0
    assert abs(changed.mean) < 1


def test_the_command_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    run(["--pairs", "4", "--iterations", "2", "--domain", "world"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| zero", "| DIS", f"| {SHIPPED}"]


def test_errors_are_means_over_things_and_ground() -> None:
    pair = proof.Pair(*torch.zeros(2, 2, 2, 3).byte(), torch.zeros(2, 2, 2), torch.tensor([[True, False]] * 2))
    found = proof.errors(lambda before, after: torch.tensor([[[3.0, 4.0], [0, 1]], [[0, 0], [0, 2]]]), [pair])
    assert found == {"things": [2.5], "ground": [1.5]}
