"""The Wan network against diffusers' Wan, on the same random weights."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rollforge.backbones.base import Condition
from rollforge.backbones.wan.network import Wan, sinusoid
from rollforge.errors import UserError
from rollforge.memory import FullMemory
from rollforge.policies import RollingSink
from rollforge.rollout import Rollout
from rollforge.samplers import FewStep

SMALL = {
    "channels": 4,
    "height": 4,
    "width": 6,
    "dim": 64,
    "layers": 2,
    "heads": 2,
    "ffn_dim": 96,
    "freq_dim": 32,
    "text_dim": 24,
    "text_len": 5,
}
ODD = {
    "channels": 3,
    "height": 6,
    "width": 2,
    "dim": 120,
    "layers": 3,
    "heads": 3,
    "ffn_dim": 64,
    "freq_dim": 16,
    "text_dim": 8,
    "text_len": 7,
}

# what diffusers calls the parts of the original state dict
NAMES = [
    (r"^condition_embedder\.time_embedder\.linear_1", "time_embedding.0"),
    (r"^condition_embedder\.time_embedder\.linear_2", "time_embedding.2"),
    (r"^condition_embedder\.time_proj", "time_projection.1"),
    (r"^condition_embedder\.text_embedder\.linear_1", "text_embedding.0"),
    (r"^condition_embedder\.text_embedder\.linear_2", "text_embedding.2"),
    (r"^scale_shift_table", "head.modulation"),
    (r"^proj_out", "head.head"),
    (r"scale_shift_table", "modulation"),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_out\.0", ".o"),
    (r"\.to_([qkv])", r".\1"),
    (r"\.norm2\.", ".norm3."),
    (r"\.ffn\.net\.0\.proj", ".ffn.0"),
    (r"\.ffn\.net\.2", ".ffn.2"),
]


def original(name: str) -> str:
    for theirs, ours in NAMES:
        name = re.sub(theirs, ours, name)
    return name


def reference(sizes: dict[str, int]) -> WanTransformer3DModel:
    """diffusers' Wan of these sizes, every parameter random (norms and modulations included)."""
    model = WanTransformer3DModel(
        num_attention_heads=sizes["heads"],
        attention_head_dim=sizes["dim"] // sizes["heads"],
        in_channels=sizes["channels"],
        out_channels=sizes["channels"],
        text_dim=sizes["text_dim"],
        freq_dim=sizes["freq_dim"],
        ffn_dim=sizes["ffn_dim"],
        num_layers=sizes["layers"],
        rope_max_seq_len=64,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def twin(sizes: dict[str, int]) -> tuple[WanTransformer3DModel, Wan]:
    theirs, ours = reference(sizes), Wan(**sizes)  # type: ignore[arg-type]
    ours.load_state_dict({original(name): value for name, value in theirs.state_dict().items()})
    return theirs, ours.eval()


def inputs(sizes: dict[str, int], frames: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    latents = torch.randn(batch, frames, sizes["channels"], sizes["height"], sizes["width"])
    return latents, torch.randn(batch, sizes["text_len"], sizes["text_dim"])


@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("sizes", [SMALL, ODD], ids=["small", "odd"])
@torch.no_grad()
def test_full_attention_equals_diffusers(sizes: dict[str, int], frames: int) -> None:
    torch.manual_seed(frames)
    theirs, ours = twin(sizes)
    latents, text = inputs(sizes, frames)
    timesteps = torch.tensor([999.0, 123.25])  # one for each sample, told to each frame
    expected = theirs(latents.transpose(1, 2), timesteps, text, return_dict=False)[0].transpose(1, 2)
    memory = FullMemory(ours.spec, range(frames))
    flow = ours(latents, timesteps[:, None].expand(2, frames), Condition("text", text), memory)
    assert flow.shape == latents.shape
    assert expected.std() > 0.1
    torch.testing.assert_close(flow, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_timestep_for_each_frame_equals_diffusers_timestep_for_each_token() -> None:
    torch.manual_seed(0)
    theirs, ours = twin(SMALL)
    latents, text = inputs(SMALL, 3)
    levels = torch.rand(2, 3) * 1000
    tokens = levels.repeat_interleave(ours.spec.tokens, dim=1)
    expected = theirs(latents.transpose(1, 2), tokens, text, return_dict=False)[0].transpose(1, 2)
    flow = ours(latents, levels, Condition("text", text), FullMemory(ours.spec, range(3)))
    torch.testing.assert_close(flow, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_short_texts_are_padded_with_zeros() -> None:
    torch.manual_seed(0)
    model, (latents, text) = Wan(**SMALL), inputs(SMALL, 1)  # type: ignore[arg-type]
    text[:, 2:] = 0
    answers = [
        model(latents, torch.full((2, 1), 500.0), Condition("text", embeds), FullMemory(model.spec, [0]))
        for embeds in (text, text[:, :2], text[:, :1])
    ]
    assert torch.equal(answers[0], answers[1])
    assert not torch.allclose(answers[0], answers[2])


def test_state_dict_names_are_the_original_ones() -> None:
    pair = ("self_attn", "cross_attn")
    block = [
        "modulation",
        *(f"{attention}.{part}.{kind}" for attention in pair for part in "qkvo" for kind in "wb"),
        *(f"{attention}.norm_{part}.w" for attention in pair for part in "qk"),
        *(f"{part}.{kind}" for part in ("norm3", "ffn.0", "ffn.2") for kind in "wb"),
    ]
    outside = ["patch_embedding", *(f"{part}.{n}" for part in ("text_embedding", "time_embedding") for n in (0, 2))]
    expected = {
        "head.modulation",
        *(f"{part}.{kind}" for part in (*outside, "time_projection.1", "head.head") for kind in "wb"),
        *(f"blocks.{n}.{name}" for n in range(2) for name in block),
    }
    full = {re.sub(r"\.b$", ".bias", re.sub(r"\.w$", ".weight", name)) for name in expected}
    state = Wan(**SMALL).state_dict()  # type: ignore[arg-type]
    assert set(state) == full
    assert state["blocks.0.self_attn.q.weight"].shape == (64, 64)
    assert state["blocks.1.modulation"].shape == (1, 6, 64)
    assert state["patch_embedding.weight"].shape == (64, 4, 1, 2, 2)


@torch.no_grad()
def test_the_published_size_has_1_3_billion_parameters() -> None:
    with torch.device("meta"):
        model = Wan()
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_418_996_800
    assert (model.spec.tokens, model.spec.head_dim, model.spec.layers) == (1560, 128, 30)


@pytest.mark.parametrize(("height", "width"), [(2, 2), (2, 10), (8, 4)])
@torch.no_grad()
def test_any_grid_keeps_patches_where_they_were(height: int, width: int) -> None:
    torch.manual_seed(0)
    sizes = SMALL | {"height": height, "width": width, "layers": 1}
    theirs, ours = twin(sizes)
    latents, text = inputs(sizes, 2, batch=1)
    expected = theirs(latents.transpose(1, 2), torch.tensor([10.0]), text, return_dict=False)[0].transpose(1, 2)
    flow = ours(latents, torch.full((1, 2), 10.0), Condition("text", text), FullMemory(ours.spec, range(2)))
    torch.testing.assert_close(flow, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"dim": 65}, "Wan: dim 65 cannot be shared out to 2 heads."),
        ({"heads": 0}, "Wan.heads must be a whole number of 1 or more, not 0."),
        ({"horizon": 0}, "Wan.horizon must be a whole number from 1 to 1,000,000, not 0."),
        ({"layers": 0}, "Wan.layers must be a whole number from 1 to 1,000, not 0."),
        ({"window": 20}, "The backbone's window is 20 latent frames; it must be a multiple of its block, 3."),
        ({"width": 7}, "The backbone's latent size 4x7 cannot be cut into patches of 2x2."),
    ],
)
def test_a_network_that_cannot_be_says_so_in_a_sentence(wrong: dict[str, int], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        Wan(**SMALL | wrong)  # type: ignore[arg-type]
    assert str(error.value) == sentence


@pytest.mark.parametrize("channels", [64, 256])
def test_timestep_embedding_agrees_with_float64_without_using_it(channels: int) -> None:
    timesteps = torch.cat([torch.arange(1001.0), torch.tensor([937.5, 833.3333, 4.98, 0.001])])
    frequency = 10000.0 ** -(torch.arange(channels // 2, dtype=torch.float64) / (channels // 2))
    angle = timesteps.double()[:, None] * frequency
    expected = torch.cat([angle.cos(), angle.sin()], dim=-1)
    assert (sinusoid(timesteps, channels) - expected).abs().max() < 3e-7


def test_no_pass_of_a_rollout_uses_float64_on_the_device() -> None:
    """The meta device stands for any that lacks it: every tensor that a rollout makes there is seen."""
    seen: set[torch.dtype] = set()

    class Dtypes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and result.device.type == "meta":
                seen.add(result.dtype)
            return result

    backbone = Wan(**SMALL, window=9, horizon=9).to("meta").eval()
    text = Condition("text", torch.zeros(1, 5, 24))
    with Dtypes():
        blocks = list(Rollout(backbone, RollingSink(2, 1), FewStep())(text, frames=15))
    assert [block.index for block in blocks] == [0, 1, 2, 3, 4]
    assert torch.float32 in seen
    assert torch.float64 not in seen
