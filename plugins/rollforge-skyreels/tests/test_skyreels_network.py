"""The backbone against diffusers' own forward of whole videos under its block-causal mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from rollforge_skyreels.network import SkyReels
from torch import Tensor

from rollforge.backbones.base import Condition
from rollforge.errors import UserError
from rollforge.memory import FullMemory, MaskedMemory
from rollforge.policies import Window
from rollforge.rollout import Rollout
from rollforge.samplers import Euler

BLOCK, BLOCKS, BATCH = 2, 4, 2
SIZE = {"height": 4, "width": 6, "block": BLOCK, "window": 8, "horizon": 8, "dtype": "fp32"}


def own_forward(network: Any, latents: Tensor, timesteps: Tensor, embeds: Tensor, rate: int = 24) -> Tensor:
    """diffusers' forward, sample by sample: with an fps embedding it takes no batch."""
    network._set_ar_attention(BLOCK)
    fps = [0 if rate == 16 else 1]
    parts = [
        network(
            x.transpose(0, 1)[None], t[None], text[None], enable_diffusion_forcing=True, fps=fps, return_dict=False
        )[0]
        for x, t, text in zip(latents, timesteps, embeds, strict=True)
    ]
    return torch.cat(parts).transpose(1, 2)


def texts(*lengths: int) -> list[Condition]:
    generator = torch.Generator().manual_seed(1)
    return [Condition(str(n), torch.randn(BATCH, length, 24, generator=generator)) for n, length in enumerate(lengths)]


@torch.no_grad()
@pytest.mark.parametrize(("embedding", "rate"), [(True, 24), (True, 16), (False, 24)])
def test_every_pass_of_a_cached_rollout_equals_the_networks_own_block_causal_forward(
    publish: Callable[..., Any], embedding: bool, rate: int
) -> None:
    published = publish(inject_sample_info=embedding)
    backbone = SkyReels(str(published.folder), frame_rate=rate, **SIZE)
    passes: list[tuple[Tensor, ...]] = []
    backbone.register_forward_hook(lambda module, given, flow: passes.append((*given[:2], given[2].embeds, flow)))
    prompt, negative = texts(5, 3)
    sampler = Euler(steps=2, guidance=2.0, context_noise=20.0)  # the noise that the authors add to the history
    rollout = Rollout(backbone, Window(context_blocks=BLOCKS), sampler)
    assert len(list(rollout(prompt, BLOCK * BLOCKS, negative=negative))) == BLOCKS

    for branch in (0, 1):  # each with a history of its own: two denoising passes and a commit for every block
        history: list[tuple[Tensor, Tensor]] = []
        for latents, timesteps, embeds, flow in passes[branch::2]:
            frames, levels = (torch.cat(parts, dim=1) for parts in zip(*history, (latents, timesteps), strict=True))
            expected = own_forward(published.network, frames, levels, embeds, rate)[:, -BLOCK:]
            torch.testing.assert_close(flow, expected, rtol=0, atol=1e-5)
            if timesteps.max() == 20:
                history.append((latents, timesteps))
        assert len(history) == BLOCKS - 1  # nothing reads the last block
        assert 0.1 < flow.abs().mean() < 10


@torch.no_grad()
def test_a_training_pass_equals_the_networks_own_forward_at_levels_of_each_frame(publish: Callable[..., Any]) -> None:
    published = publish()
    backbone = SkyReels(str(published.folder), **SIZE)
    latents = torch.randn(BATCH, BLOCK * BLOCKS, 4, 4, 6)
    timesteps = torch.rand(BATCH, BLOCK * BLOCKS) * 1000
    (condition,) = texts(5)
    memory = MaskedMemory.diffusion_forcing(backbone.spec, BLOCK * BLOCKS)
    expected = own_forward(published.network, latents, timesteps, condition.embeds)
    torch.testing.assert_close(backbone(latents, timesteps, condition, memory), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_half_precision_stays_near_float32(publish: Callable[..., Any]) -> None:
    folder = str(publish().folder)
    half = SkyReels(folder, **SIZE | {"dtype": "bf16"})
    assert {value.dtype for value in half.parameters()} == {torch.bfloat16}
    latents, timesteps = torch.randn(BATCH, BLOCK, 4, 4, 6), torch.full((BATCH, BLOCK), 700.0)
    (condition,) = texts(5)
    flows = [
        backbone(latents.to(dtype), timesteps, condition, FullMemory(backbone.spec, range(BLOCK)))
        for backbone, dtype in ((SkyReels(folder, **SIZE), torch.float32), (half, torch.bfloat16))
    ]
    assert flows[1].dtype == torch.bfloat16
    assert (flows[0] - flows[1]).norm() < 0.05 * flows[0].norm()


@torch.no_grad()
def test_the_network_compiles_as_one_graph(publish: Callable[..., Any]) -> None:
    backbone = SkyReels(str(publish().folder), **SIZE)
    latents, timesteps = torch.randn(BATCH, BLOCK, 4, 4, 6), torch.rand(BATCH, BLOCK) * 1000
    (condition,) = texts(5)
    flows = [
        network(latents, timesteps, condition, FullMemory(backbone.spec, range(BLOCK)))
        for network in (backbone, torch.compile(backbone, backend="eager", fullgraph=True))
    ]
    torch.testing.assert_close(*flows, rtol=0, atol=1e-5)  # what is compiled rotates in real numbers


def test_text_features_of_another_encoder_are_refused(publish: Callable[..., Any]) -> None:
    backbone = SkyReels(str(publish().folder), **SIZE)
    latents, timesteps = torch.randn(1, BLOCK, 4, 4, 6), torch.zeros(1, BLOCK)
    condition = Condition("pocket", torch.randn(1, 3, 32))
    with pytest.raises(UserError, match="text features are 32 wide and the network takes 24"):
        backbone(latents, timesteps, condition, FullMemory(backbone.spec, range(BLOCK)))
