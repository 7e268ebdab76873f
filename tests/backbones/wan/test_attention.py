"""Queries, keys and values as one product equal three products, whatever has happened to the weights."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from rollforge.backbones.wan.attention import Attention
from rollforge.backbones.wan.layers import PatchEmbedding, TanhGELU

WIDTH = 24


def random_attention(seed: int = 0) -> Attention:
    torch.manual_seed(seed)
    made = Attention(WIDTH, 2, 1e-6)
    for norm in (made.norm_q, made.norm_k):
        nn.init.normal_(norm.weight, 1, 0.3)
    return made


class Products(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten.addmm.default
        return func(*args, **(kwargs or {}))


def assigned(attention: Attention) -> Attention:
    attention.load_state_dict(random_attention(1).state_dict(), assign=True)
    return attention


def loaded(attention: Attention) -> Attention:
    attention.load_state_dict(random_attention(1).state_dict())
    return attention


@torch.no_grad()
def trained(attention: Attention) -> Attention:
    for parameter in attention.parameters():
        parameter += 0.1
    return attention


def adapted(attention: Attention) -> Attention:
    class Adapted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    attention.k.__class__ = Adapted
    return attention


def hooked(attention: Attention) -> Attention:
    attention.v.register_forward_hook(lambda module, args, output: output * 2)
    return attention


def mixed(attention: Attention) -> Attention:
    attention.q.weight = nn.Parameter(attention.q.weight.detach().clone() * 2)
    return attention


def packed(attention: Attention) -> Attention:
    attention.pack()
    return attention


CHANGES: list[tuple[Callable[[Attention], Attention], int]] = [
    (lambda attention: attention, 3), (packed, 1), (deepcopy, 3), (lambda attention: attention.double(), 1),
    (loaded, 1), (trained, 1), (assigned, 3), (adapted, 3), (hooked, 3), (mixed, 3),
]  # fmt: skip


@pytest.mark.parametrize(("change", "products"), CHANGES)
def test_one_product_equals_three(change: Callable[[Attention], Attention], products: int) -> None:
    attention = random_attention()
    if change not in (CHANGES[0][0], deepcopy):
        attention.pack()
    before = attention.state_dict()
    attention = change(attention)
    x = torch.randn(2, 5, WIDTH, dtype=attention.q.weight.dtype)
    with torch.no_grad(), Products() as seen:
        made = attention.query_key_value(x)
    assert seen.count == products
    expected = attention.query(x), *attention.key_value(x)  # with gradients
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-6)
    assert {*attention.state_dict()} == {*before}
    sum(each.sum() for each in attention.query_key_value(x)).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None for name, p in attention.named_parameters() if not name.startswith("o."))


def test_gelu_and_patches_equal_those_of_torch() -> None:
    x = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([-1e4, 1e4])])
    with torch.no_grad():
        torch.testing.assert_close(TanhGELU()(x), functional.gelu(x, approximate="tanh"), rtol=1e-6, atol=1e-6)
    patches = PatchEmbedding(3, 8, kernel_size=(1, 2, 2), stride=(1, 2, 2))
    latents = torch.randn(2, 4, 3, 6, 10)
    expected = nn.Conv3d.forward(patches, latents.transpose(1, 2)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(patches(latents), expected, rtol=0, atol=1e-6)
