"""The budget against the tensors that are alive in a rollout, counted on the meta device, which has no memory."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from alive import Alive
from torch import Tensor
from torch.nn import functional

from rollforge.backbones.base import Condition
from rollforge.backbones.pocket.codec import PocketCodec
from rollforge.backbones.wan.codec import WanVAE
from rollforge.backbones.wan.network import Wan
from rollforge.budget import Budget, budget_of, work_of
from rollforge.budget.live import tensors_in
from rollforge.noise import NoisePrior
from rollforge.policies import AttentionSink, CachePolicy, LongLive, RollingSink, Window
from rollforge.rollout import Rollout
from rollforge.samplers import Euler, FewStep, Sampler
from rollforge.snapshots.settings import Snapshots
from rollforge.snapshots.sizes import decided, snapshot_bytes, snapshots_bytes

LARGE = 10**8  # between the snapshots of one block and of 21 frames, of a network of two layers
GUIDED, FEW = Euler(steps=1, guidance=3.0), FewStep(timesteps=[1000])


KEPT = FewStep(timesteps=[1000])
KEPT.recomputes = False


class Watching(Window):
    sees = ("q",)


class Nothing(NoisePrior):
    """Noise without numbers."""

    def draw(self, seed: int, sample: int, frames: range, level: int, shape: Any) -> Tensor:
        return torch.empty(len(frames), *shape, device="meta")


@pytest.fixture(scope="module")
def parts() -> tuple[Wan, WanVAE]:
    """A Wan of few layers and a narrow VAE, in the proportions of the published ones."""
    with torch.device("meta"):
        network = Wan(weights="random", dtype="bf16", layers=2, dim=512, ffn_dim=2048, height=30, width=52)
        return network, WanVAE(base_dim=16)


@pytest.fixture(autouse=True)
def _fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention as a fused kernel has it: nothing is written but the result."""
    monkeypatch.setattr(functional, "scaled_dot_product_attention", lambda q, k, v, **options: torch.empty_like(q))


def text(name: str, rows: int) -> Condition:
    return Condition(name, torch.empty(rows, 512, 4096, device="meta", dtype=torch.bfloat16))


def rolling(budget: Budget) -> int:
    """Bytes of a rollout in addition to weights and reserve."""
    fixed = sum(line.size for line in budget.lines if line.name.startswith(("weights", "reserve")))
    return budget.needed("cuda:0") - fixed


@pytest.mark.parametrize(
    ("policy", "sampler", "batch", "switch"),
    [
        pytest.param(RollingSink(6, 5), FEW, 1, None, marks=pytest.mark.matrix),
        (RollingSink(4, 3), GUIDED, 2, None),
        pytest.param(Window(6), FEW, 1, None, marks=pytest.mark.matrix),
        pytest.param(LongLive(3, 1), FEW, 1, 18, marks=pytest.mark.matrix),
        (LongLive(3, 1, recache="full"), FEW, 1, 18),
        pytest.param(LongLive(3, 1, recache="full"), GUIDED, 2, 18, marks=pytest.mark.matrix),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_peak_of_a_rollout_is_within_ten_percent(
    parts: tuple[Wan, WanVAE], policy: CachePolicy, sampler: Sampler, batch: int, switch: int | None
) -> None:
    network, codec = parts
    texts = {0: text("a", batch)} | ({switch: text("b", batch)} if switch else {})
    negative = text("n", batch) if len(sampler.guidance_branches) > 1 else None
    rollout = Rollout(network, policy, sampler, Nothing())
    with torch.no_grad(), Alive(parts) as alive:
        stream: Any = codec.stream()
        for block in rollout(texts, frames=24, negative=negative):
            if block.index > 5:  # two are enough to fill the state
                stream.frames(block.latents)  # what a call does, but for autocast, which does not know of meta
    work = work_of(
        network, codec, sampler, {"model.policy": policy}, device="cuda:0", frames=24, batch=batch,
        switches=[switch] if switch else [],
    )  # fmt: skip
    work = replace(work, decoding=replace(work.decoding, dtype=torch.float32))  # as it is here, without CUDA
    assert rolling(budget_of(work, {})) == pytest.approx(alive.peak, rel=0.1)


def test_a_policy_that_reads_again_is_counted_with_a_switch_where_none_is_known(parts: tuple[Wan, WanVAE]) -> None:
    def peak(switches: list[int] | None) -> int:
        policy = {"model.policy": LongLive(3, 1, recache="full")}
        work = work_of(*parts, FEW, policy, device="cuda:0", frames=33, switches=switches)
        return rolling(budget_of(work, {}))

    assert peak(None) == peak([24]) > peak([])


@pytest.mark.parametrize("tile", [pytest.param(None, marks=pytest.mark.matrix), 16])
def test_the_opening_is_within_ten_percent(parts: tuple[Wan, WanVAE], tile: int | None) -> None:
    network, _ = parts
    with torch.device("meta"):
        codec = WanVAE(base_dim=16, tile=tile, overlap=4)
    codec.at_work = nullcontext  # type: ignore[assignment,method-assign] # autocast does not know of meta
    with torch.no_grad(), Alive([codec]) as alive:
        pixels = torch.empty(1, codec.pixel_frames(3), 240, 416, 3, device="meta", dtype=torch.uint8)
        codec.encode(pixels.permute(0, 1, 4, 2, 3).float() / 255)
    work = work_of(network, codec, FEW, {"model.policy": Window(2)}, device="cpu", frames=30, opening=3)
    (estimated,) = [line.size for line in budget_of(work, {}).lines if line.name == "encoding the opening"]
    assert estimated == pytest.approx(alive.peak, rel=0.1)


@pytest.mark.parametrize("policy", [RollingSink(3, 2), AttentionSink(3, 1), Window(3)], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("sampler", [FEW, GUIDED], ids=["alone", "guided"])
def test_a_snapshot_is_as_large_as_the_state_of_a_rollout(policy: CachePolicy, sampler: Sampler) -> None:
    network = Wan(weights="random", channels=4, dim=64, heads=2, layers=2, ffn_dim=64, text_dim=8, height=8, width=12)
    codec = PocketCodec(width=16)
    words = Condition("a", torch.zeros(1, 4, 8))
    run = Rollout(network, policy, sampler)(
        words, frames=24, negative=words if len(sampler.guidance_branches) > 1 else None
    )
    most = max(sum(tensor.nbytes for tensor in tensors_in(run.state_dict()["memories"])) for _ in run)
    work = work_of(network, codec, sampler, {"model.policy": policy}, device="cpu", frames=24, switches=[])
    assert snapshot_bytes(work, Snapshots(kv="save")) == pytest.approx(most, rel=0.01)
    assert snapshot_bytes(work, Snapshots(kv="recompute")) == 0  # this codec carries nothing


@pytest.mark.parametrize(
    ("settings", "seconds", "count"),
    [
        (Snapshots(kv="save"), None, 3),  # two are kept while a third is written
        (Snapshots(kv="save", keep=4), 1000.0, 5),
        (Snapshots(kv="save"), 60.0, 1),  # finished before one is due: a signal may still make one
        (Snapshots(kv="save", every_seconds=None), None, 1),
        (Snapshots(kv="save", every_seconds=None, every_blocks=1), 1.0, 3),
        (Snapshots(kv="save", every_seconds=None, every_blocks=100), 1.0, 1),
    ],
)
def test_snapshots_on_the_disk(
    parts: tuple[Wan, WanVAE], settings: Snapshots, seconds: float | None, count: int
) -> None:
    work = work_of(*parts, FEW, {"model.policy": RollingSink()}, device="cuda:0", frames=60)
    assert snapshots_bytes(work, settings, seconds) == count * snapshot_bytes(work, settings)


@pytest.mark.parametrize(
    ("policy", "sampler", "kv"),
    [
        (RollingSink(), FEW, "recompute"),
        (Window(1), FEW, "save"),
        (Watching(21), FEW, "save"),
        (RollingSink(), KEPT, "save"),
    ],
)
def test_large_snapshots_leave_keys_and_values_out_where_they_can_be_recomputed(
    parts: tuple[Wan, WanVAE], policy: CachePolicy, sampler: Sampler, kv: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = work_of(*parts, sampler, {"model.policy": policy}, device="cuda:0", frames=60)
    size = snapshot_bytes(work, Snapshots(kv="save"))
    monkeypatch.setattr("rollforge.snapshots.sizes.LARGE", LARGE)
    assert decided(Snapshots(keep=3), work, sampler) == Snapshots(keep=3, kv=kv)
    assert (size > LARGE) == (policy.visible(3) > 3)
    assert decided(Snapshots(kv="save"), work, sampler).kv == "save"


def test_the_first_snapshot_needs_two_blocks(parts: tuple[Wan, WanVAE]) -> None:
    work = work_of(*parts, FEW, {"model.policy": RollingSink()}, device="cuda:0", frames=3)
    assert snapshots_bytes(work, Snapshots(kv="save")) == 0
