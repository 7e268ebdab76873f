"""The check of attention kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from rollforge.memory.kernels import Attention
from rollforge.testing.rules import fail, keeping, same

QUERIES, KEYS, HEADS, HEAD_DIM = 6, 10, 4, 16


def check_attention(attention: Attention, *, tolerance: float | None = None) -> None:
    """Compares an attention kernel with a dense computation, in float32 on the CPU.

    Args:
        attention: as a config would build it.
        tolerance: how far its results may be off, relative to the largest. Default: its own.

    Raises:
        CheckFailed: with the rule and the values.
    """
    tolerance = attention.tolerance if tolerance is None else tolerance
    draw = torch.Generator().manual_seed(6)
    for shared in (1, 2):
        q = torch.randn(2, QUERIES, HEADS, HEAD_DIM, generator=draw)
        k, v = (torch.randn(2, KEYS, HEADS // shared, HEAD_DIM, generator=draw) for _ in range(2))
        rule = "attention-dense" if shared == 1 else "attention-shared"
        for name, bias in _biases(draw).items():
            found = _asked(attention, q, k, v, bias, name)
            same(rule, attention, f"With {name}", found, _dense(q, k, v, bias, shared), tolerance)
            for row in (0, 1):
                one = slice(row, row + 1)
                alone = attention(q[one], k[one], v[one], bias if bias is None or len(bias) == 1 else bias[one])
                same("attention-batch", attention, f"With {name}, in row {row},", found[one], alone, tolerance)


def _biases(draw: torch.Generator) -> dict[str, Tensor | None]:
    """None, and one of each shape that plans have."""
    shapes = {"a bias for each key": (1, 1, 1, KEYS), "a bias for each head and query": (2, HEADS, QUERIES, KEYS)}
    hidden = torch.randn(2, HEADS, QUERIES, KEYS, generator=draw)
    hidden[..., ::3] = -torch.inf  # as for frames that a head does not read
    drawn = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    return {"no bias": None, **drawn, "a bias that hides keys": hidden}


def _asked(attention: Attention, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, name: str) -> Tensor:
    given = [each for each in (q, k, v, bias) if each is not None]
    kept = [each.clone() for each in given]
    with keeping("attention-dense", attention, f"With {name}"):
        found, again = (attention(q, k, v, bias) for _ in range(2))
    if found.shape != q.shape or found.dtype != q.dtype:
        fail("attention-dense", attention, f"With {name} it returned {list(found.shape)}, {found.dtype}.")
    same("attention-repeat", attention, f"With {name}, called again,", again, found)
    for each, before in zip(given, kept, strict=True):
        same("attention-repeat", attention, f"With {name}, in what was given,", each, before)
    return found


def _dense(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, shared: int) -> Tensor:
    """Attention written out, in float64."""
    q, k, v = q.double(), k.double().repeat_interleave(shared, 2), v.double().repeat_interleave(shared, 2)
    logits = torch.einsum("blhd,bshd->bhls", q, k) / q.shape[-1] ** 0.5
    weights = (logits if bias is None else logits + bias.double()).softmax(-1)
    return torch.einsum("bhls,bshd->blhd", weights, v).float()
