"""RAFT against torchvision's, and files of weights."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from packages import installed
from rollforge_motion.flow import RaftFlow
from rollforge_motion.raft import LAYOUTS, Raft
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import interpolate

from rollforge.cli import main
from rollforge.errors import UserError
from rollforge.metrics import Motion
from rollforge.testing import check_flow

PARAMETERS = {"large": 5_257_536, "small": 990_162}
"""As torchvision publishes them for its two models."""
FOUND = {
    "large": [[-0.5567, -1.2588], [-9.4068, 10.6132], [-9.3692, 6.1672], [-3.5538, -0.6745]],
    "small": [[-4.7157, 4.0629], [-16.1492, 0.4667], [-14.9175, -2.7744], [-5.9659, -5.8574]],
}
"""The flow (x, y) at ``PLACES`` by raft_large and raft_small of torchvision 0.28.0, on a CPU, after three updates, with
the weights of ``filled`` and the pictures of ``pictures``. They agreed everywhere to 2e-5 px."""
PLACES = ((0, 0), (40, 70), (90, 21), (135, 143))  # row, column


def filled(network: nn.Module) -> nn.Module:
    """Random weights that depend on the names and shapes alone."""
    drawn, state = torch.Generator().manual_seed(7), network.state_dict()
    for name in sorted(state):
        value = state[name]
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=drawn)
            if value.ndim > 1:
                value.copy_(noise / value[0].numel() ** 0.5)
            else:
                value.copy_(1 + 0.1 * noise.abs() if name.endswith("running_var") else 0.1 * noise)
    return network.eval()


def pictures() -> torch.Tensor:
    """Two smooth pictures ``[2, 1, 3, 136, 144]`` in -1..1."""
    coarse = torch.rand(2, 1, 3, 12, 13, generator=torch.Generator().manual_seed(8))
    return interpolate(coarse.flatten(0, 1), (136, 144), mode="bilinear").unflatten(0, (2, 1)) * 2 - 1


@pytest.mark.parametrize("layout", ["large", "small"])
def test_it_is_torchvisions_network(layout: str) -> None:
    network = filled(Raft(layout))
    assert sum(each.numel() for each in network.parameters()) == PARAMETERS[layout]
    with torch.no_grad():
        flow = network(*pictures(), 3)[-1][0]
    found = torch.stack([flow[:, row, column] for row, column in PLACES])
    torch.testing.assert_close(found, torch.tensor(FOUND[layout]), atol=2e-3, rtol=0)


def test_the_shipped_network_is_small() -> None:
    assert sum(each.numel() for each in Raft("tiny").parameters()) <= 300_000


@pytest.mark.parametrize("layout", ["tiny", "small"])
def test_it_keeps_the_rules_of_a_flow(layout: str, tmp_path: Path) -> None:
    file = tmp_path / "raft.safetensors"
    save_file(filled(Raft(layout)).state_dict(), file)
    check_flow(RaftFlow(str(file), layout, iterations=2), moved=False)  # type: ignore[arg-type] # a Literal


def test_the_shipped_network_passes_plugins_check_without_a_warning(tmp_path: Path) -> None:
    with installed(["rollforge-motion"], tmp_path), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["plugins", "check", "RaftFlow"]) == 0


def test_a_large_picture_is_measured_smaller_in_its_own_pixels() -> None:
    """The same picture twice as large moves twice as far."""
    small = torch.randint(0, 255, (48, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    pair = small, small.roll(2, 1)
    large = [each.repeat_interleave(2, 0).repeat_interleave(2, 1) for each in pair]
    flow, reduced = RaftFlow(), RaftFlow(longest=64)
    near = reduced.between(*large)[8:-8:2, 8:-8:2]
    far = 2 * flow.between(*pair)[4:-4, 4:-4]
    assert float(far.norm(dim=2).mean()) > 0.5
    assert float((near - far).norm(dim=2).mean()) < 0.2 * float(far.norm(dim=2).mean())


def test_weights_of_another_layout_are_refused_in_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "raft_small.safetensors"
    save_file(Raft("small").state_dict(), file)
    with pytest.raises(UserError, match=r"do not fit this model: .*\. Check the sizes"):
        RaftFlow(str(file))
    with pytest.raises(UserError, match="no weights of layout large here; name a file"):
        RaftFlow(layout="large")
    with pytest.raises(UserError, match="longest must be at most 640 with layout tiny, not 4096"):
        RaftFlow(longest=4096)
    with pytest.raises(UserError, match="iterations must be a whole number from 1 to 1,000"):
        RaftFlow(iterations=10**9)
    assert {"tiny", "small", "large"} == set(LAYOUTS)


def test_it_is_the_flow_behind_motion() -> None:
    """A square that moves by 2 pixels a frame, seen by the metric."""
    frames = torch.full((16, 64, 64, 3), 60, dtype=torch.uint8)
    for n in range(16):
        frames[n, 20:44, 4 + 2 * n : 24 + 2 * n] = 200
    motion = Motion(flow=RaftFlow())
    motion.start("", 16)
    curves = motion.update(frames, 0)
    assert 1.0 < float(curves["flow_top"].nanmean()) < 3.0
