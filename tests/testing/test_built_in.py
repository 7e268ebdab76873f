"""Every built-in part passes the kit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rollforge.backbones.base import Condition
from rollforge.backbones.pocket.codec import PocketCodec
from rollforge.backbones.pocket.network import Pocket
from rollforge.backbones.pocket.text import PocketText
from rollforge.backbones.wan.codec import WanVAE
from rollforge.backbones.wan.network import Wan
from rollforge.backbones.wan.tiny import TinyWanDecoder
from rollforge.finish import Enlarge
from rollforge.memory import Attention, FlashAttention3, IdentityKVCodec, RolloutMemory, SageAttention, Sdpa
from rollforge.memory.combine import BlendBranches
from rollforge.noise import FixedNoise, IndependentNoise, RepeatedNoise
from rollforge.objectives import DMD, GAN, Matching, SiD
from rollforge.policies import AttentionSink, LongLive, RollingSink, SlidingIndices, Window
from rollforge.positions import NoPositions, Rope
from rollforge.registry import registry
from rollforge.samplers import Euler, FewStep
from rollforge.testing import (
    check_attention,
    check_backbone,
    check_codec,
    check_combine,
    check_conditioner,
    check_finish,
    check_kv_codec,
    check_matching,
    check_memory,
    check_metric,
    check_noise,
    check_policy,
    check_positions,
    check_sampler,
)

SIZES: dict[str, Any] = {
    "channels": 4, "height": 4, "width": 6, "dim": 32, "layers": 2, "heads": 2, "ffn_dim": 48, "freq_dim": 16,
    "text_dim": 8, "text_len": 3, "block": 3, "window": 9, "horizon": 9,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("matching", [DMD(), SiD(), GAN()], ids=lambda matching: type(matching).__name__)
def test_matching(matching: Matching) -> None:
    check_matching(matching)


@pytest.mark.parametrize(
    "policy",
    [
        Window(2), AttentionSink(3, 2), SlidingIndices(3, 2), RollingSink(3, 2),
        LongLive(2, 1, recache_blocks=4, recache="block", global_sink=False),
        pytest.param(LongLive(3, 1), marks=pytest.mark.matrix),
    ],
    ids=lambda policy: type(policy).__name__,
)  # fmt: skip
def test_policies(policy: Any) -> None:
    check_policy(policy, blocks=10_000 if type(policy) in (RollingSink, LongLive) else 1_000)


@pytest.mark.parametrize(
    "sampler",
    [
        FewStep(timesteps=(1000, 500), first_timesteps=(1000, 800, 300), context_noise=100),
        Euler(steps=2, guidance=3.0, guided_blocks=2, context_noise=50),
        pytest.param(FewStep(timesteps=(1000, 500), context_noise=100), marks=pytest.mark.matrix),
        pytest.param(Euler(steps=2), marks=pytest.mark.matrix),
    ],
)  # fmt: skip
def test_samplers(sampler: Any) -> None:
    check_sampler(sampler)


@pytest.mark.parametrize("network", [Wan, Pocket])
def test_backbones(network: Any) -> None:
    made = network(**SIZES)
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.15)
    check_backbone(made, Condition("two", torch.randn(2, 3, 8)))


def test_codecs() -> None:
    pocket = PocketCodec(channels=4, width=16, weights="random").eval()
    check_codec(pocket, 4)


def test_codecs_of_wan() -> None:
    pytest.importorskip("diffusers")
    check_codec(WanVAE(base_dim=4, z_dim=4, latents_mean=[0.0] * 4, latents_std=[1.0] * 4), 4, grid=(2, 3))
    check_codec(TinyWanDecoder(), 16, grid=(1, 2))


def test_stages_after_the_codec() -> None:
    check_finish(Enlarge(2))
    check_finish(Enlarge(3, mode="nearest"))


def test_noise_priors(tmp_path: Path) -> None:
    check_noise(IndependentNoise())
    check_noise(RepeatedNoise())
    noise, renoise = torch.randn(1, 12, 4, 6, 8), torch.randn(4, 1, 1, 3, 4, 6, 8)
    save_file({"noise": noise, "renoise": renoise}, tmp_path / "noise.safetensors")
    check_noise(FixedNoise(str(tmp_path / "noise.safetensors")), drawn=False)


def test_kv_codecs_and_memories() -> None:
    check_kv_codec(IdentityKVCodec())
    check_memory(RolloutMemory)


def test_positions_and_what_joins_branches() -> None:
    check_positions(Rope())
    check_positions(NoPositions())
    check_combine(BlendBranches(0.3))


KERNELS = [Sdpa(), Sdpa("flash"), Sdpa("math"), FlashAttention3(), SageAttention()]


@pytest.mark.parametrize("attention", KERNELS, ids=lambda each: type(each).__name__)
def test_attention(attention: Attention) -> None:
    """Those of the hub pass calls in float32 on to torch."""
    check_attention(attention)


@pytest.mark.parametrize(
    "metric", [part for part in registry().of("metric") if part.origin == "rollforge"], ids=lambda part: part.name
)
def test_metrics(metric: Any) -> None:
    check_metric(metric.load()())


def test_conditioners() -> None:
    check_conditioner(PocketText())
