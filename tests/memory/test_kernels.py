"""Attention kernels: chosen by name, refused where they do not run, and left where a call is not for them."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend
from toy_backbone import DIM, LAYERS, Toy

from rollforge.backbones.base import Condition
from rollforge.errors import UserError
from rollforge.memory import Attention, RolloutMemory, RoutedMemory, Sdpa
from rollforge.memory.attention import attention
from rollforge.memory.hub_kernels import FlashAttention3, HubAttention, SageAttention
from rollforge.policies import RollingSink
from rollforge.rollout import Rollout
from rollforge.samplers import FewStep

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Counting(Attention):
    """Torch's attention, and how often it was called."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        self.calls += 1
        return attention(q, k, v, bias)


def text() -> Condition:
    return Condition("text", torch.ones(1, 1, DIM))


def latents(**parts: Any) -> Tensor:
    """Six blocks of a small network, with a context from the second on."""
    rollout = Rollout(Toy(), RollingSink(sink_blocks=1, context_blocks=2), FewStep([1000, 500]), **parts)
    return torch.cat([block.latents for block in rollout(text(), 12)], dim=1)


@pytest.mark.parametrize("memory", [RolloutMemory, RoutedMemory])
def test_a_rollout_attends_with_its_kernel(memory: Any) -> None:
    counting = Counting()
    assert torch.equal(latents(attention=counting, memory=memory), latents(memory=memory))
    assert counting.calls == (6 * 2 + 5) * LAYERS  # two steps of each block, and a commit of all but the last
    torch.testing.assert_close(latents(attention=Sdpa("math"), memory=memory), latents(memory=memory))


@pytest.mark.parametrize("kernel", ["cudnn", "efficient"])
def test_a_kernel_that_does_not_run_here_is_refused_before_the_first_block(kernel: Any) -> None:
    with pytest.raises(UserError, match=rf"kernel {kernel} does not run on cpu with float32.*to auto or flash or math"):
        latents(attention=Sdpa(kernel))


def test_the_kernel_is_named() -> None:
    assert Sdpa("math").describe(CPU, torch.float32, 64) == "Sdpa (math)"
    chosen = SDPBackend(torch._fused_sdp_choice(*[torch.zeros(1, 2, 16, 64)] * 3))  # type: ignore[attr-defined]
    assert chosen.name.lower().startswith(Sdpa().describe(CPU, torch.float32, 64)[6:-1])


@pytest.mark.parametrize(
    ("kernel", "bias", "kv_heads", "takes"),
    [("flash", True, 4, False), ("flash", False, 2, True), ("efficient", False, 2, False), ("efficient", True, 4, True),
     ("cudnn", True, 4, True)],
)  # fmt: skip
def test_calls_that_a_kernel_cannot_take_on_cuda_are_left_to_torch(
    kernel: Any, bias: bool, kv_heads: int, takes: bool
) -> None:
    q, k = (SimpleNamespace(device=CUDA, shape=(1, 3, heads, 8)) for heads in (4, kv_heads))
    assert Sdpa(kernel)._takes(q, k, torch.zeros(1) if bias else None) is takes


@pytest.mark.parametrize("part", [FlashAttention3, SageAttention])
def test_kernels_of_the_hub_are_refused_where_they_cannot_run(
    part: type[HubAttention], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="runs on CUDA in bfloat16 or float16, not on cpu in float32"):
        latents(attention=part())
    monkeypatch.setitem(sys.modules, "kernels", None)
    with pytest.raises(UserError, match=r"needs the package kernels .* run: pip install kernels"):
        part().check(CUDA, torch.bfloat16, 64)
    monkeypatch.setitem(sys.modules, "kernels", SimpleNamespace(get_kernel=lambda *_, **__: 1 / 0))
    with pytest.raises(UserError, match=r"kernels-community/.* cannot be loaded \(ZeroDivisionError"):
        part().check(CUDA, torch.bfloat16, 64)


@pytest.mark.parametrize("part", [FlashAttention3, SageAttention])
def test_kernels_of_the_hub_attend_without_a_bias(part: type[HubAttention], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a package of the same functions: what is passed on, in the layout of both kernels, ``[B, L, heads, D]``."""
    asked = []

    def made(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        asked.append(options)
        return attention(q, k, v)

    known = SimpleNamespace(flash_attn_func=lambda *given: (made(*given), None), sageattn=made)
    monkeypatch.setitem(sys.modules, "kernels", SimpleNamespace(get_kernel=lambda repository, version: known))
    kernel = part()
    kernel.check(CUDA, torch.bfloat16, 8)
    q, k, v = torch.randn(3, 1, 4, 2, 8, dtype=torch.bfloat16)
    assert torch.equal(kernel(q, k, v), attention(q, k, v))
    assert asked == [{} if part is FlashAttention3 else {"tensor_layout": "NHD", "is_causal": False}]
    bias = torch.randn(1, 1, 1, 4)
    assert torch.equal(kernel(q, k, v, bias), attention(q, k, v, bias))
    assert torch.equal(kernel(*(each.float() for each in (q, k, v))), attention(*(each.float() for each in (q, k, v))))
    assert len(asked) == 1
