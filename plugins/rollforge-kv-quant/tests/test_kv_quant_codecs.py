"""The codecs against plain Python, number by number: errors, shapes, dtypes and bytes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from rollforge_kv_quant import FP8KVCodec, Int4KVCodec, Int8KVCodec, QuantizedKVCodec
from torch import Tensor

from rollforge.errors import UserError
from rollforge.state import tensors_of
from rollforge.testing import check_kv_codec

CODECS = [Int8KVCodec(), FP8KVCodec(), Int4KVCodec()]
each_codec = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: type(codec).__name__)


def keys(tokens: int = 10, dtype: torch.dtype = torch.float32, rows: int = 2) -> Tensor:
    """Keys whose channels differ in mean and size."""
    generator = torch.Generator().manual_seed(tokens)
    x = torch.randn(rows, tokens, 2, 6, generator=generator)
    return (x * torch.logspace(-2, 2, 6) + torch.linspace(-5, 5, 6)).to(dtype)


def groups_of(x: Tensor, group: int) -> list[list[float]]:
    """The numbers of each group in order: samples, then runs of tokens, then heads, then channels."""
    tokens = x.shape[1]
    group = min(group, tokens + tokens % 2)
    return [
        [x[b, min(t, tokens - 1), h, d].item() for t in range(start, start + group)]
        for b in range(x.shape[0]) for start in range(0, tokens, group)
        for h in range(x.shape[2]) for d in range(x.shape[3])
    ]  # fmt: skip


def integers(numbers: list[float], most: int) -> list[float]:
    """Rounded to ``most`` steps between the least and the largest."""
    least, largest = min(numbers), max(numbers)
    scale = (largest - least) / most or 1.0
    return [least + scale * min(most, max(0, round((x - least) / scale))) for x in numbers]


def e4m3(numbers: list[float]) -> list[float]:
    """Rounded to three bits of mantissa around the middle; 448 is the largest number, 2 ** -6 the least normal one."""
    middle = (min(numbers) + max(numbers)) / 2
    scale = max(abs(x - middle) for x in numbers) / 448 or 1.0
    rounded = []
    for x in numbers:
        small = (x - middle) / scale
        exponent = max(-6, math.floor(math.log2(abs(small)))) if small else -6
        step = 2.0 ** (exponent - 3)
        rounded.append(middle + scale * step * round(small / step))
    return rounded


@pytest.mark.parametrize(
    ("codec", "rounding", "steps"),
    [
        (Int8KVCodec(4), lambda numbers: integers(numbers, 255), 255),
        (Int4KVCodec(4), lambda numbers: integers(numbers, 15), 15),
        (Int4KVCodec(64), lambda numbers: integers(numbers, 15), 15),
        (FP8KVCodec(6), e4m3, 0),
    ],
    ids=["int8", "int4", "int4-one-group", "fp8"],
)
def test_decoded_numbers_are_those_of_plain_python(codec: QuantizedKVCodec, rounding: Any, steps: int) -> None:
    k, v = keys(), keys(10).flip(1) * 3
    for given, found in zip((k, v), codec.decode(codec.encode(k, v)), strict=True):
        pairs = zip(groups_of(given, codec.group), groups_of(found, codec.group), strict=True)
        for numbers, decoded in pairs:
            expected = rounding(numbers)
            width = max(numbers) - min(numbers)
            # a number near the middle of two steps may go either way in float32
            close = [abs(a - b) <= 1e-4 * width + 1e-5 for a, b in zip(decoded, expected, strict=True)]
            assert sum(close) >= len(close) - 1
            if steps:
                assert max(abs(a - b) for a, b in zip(decoded, numbers, strict=True)) <= 0.501 * width / steps + 1e-5


@each_codec
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("tokens", [1, 2, 7, 65])
def test_shapes_and_dtypes_are_restored(codec: QuantizedKVCodec, dtype: torch.dtype, tokens: int) -> None:
    k, v = keys(tokens, dtype), -keys(tokens, dtype)
    kept = codec.encode(k, v)
    for given, found in zip((k, v), codec.decode(kept), strict=True):
        assert found.shape == given.shape
        assert found.dtype == dtype
        assert (found - given).norm() < 0.1 * given.norm()
    assert all(torch.equal(a, b) for a, b in zip(codec.decode(kept), codec.decode(codec.encode(k, v)), strict=True))


@each_codec
def test_equal_numbers_come_back_exactly_and_nan_is_not_hidden(codec: QuantizedKVCodec) -> None:
    x = torch.full((1, 5, 2, 4), 3.7)
    x[..., 0] = 0
    assert torch.equal(codec.decode(codec.encode(x, x))[0], x)
    x[0, 2, 1, 1] = math.nan
    assert codec.decode(codec.encode(x, x))[1][0, 2, 1, 1].isnan()


@each_codec
def test_bytes_are_those_stated_and_can_be_counted_without_numbers(codec: QuantizedKVCodec) -> None:
    bits = {Int8KVCodec: 8.72, FP8KVCodec: 8.72, Int4KVCodec: 5.03}[type(codec)]
    x = torch.ones(1, 1560, 12, 128, dtype=torch.bfloat16)  # a frame of Wan 1.3B at 480x832
    held = sum(tensor.nbytes for tensor in tensors_of(codec.encode(x, x)))
    assert 8 * held / (2 * x.numel()) == pytest.approx(bits, abs=0.005)
    meta = x.to("meta")
    assert sum(tensor.nbytes for tensor in tensors_of(codec.encode(meta, meta))) == held


@each_codec
def test_it_passes_the_kit(codec: QuantizedKVCodec) -> None:
    assert codec.tolerance <= {Int8KVCodec: 0.01, FP8KVCodec: 0.04, Int4KVCodec: 0.1}[type(codec)]
    check_kv_codec(codec)


@pytest.mark.parametrize("group", [0, 3, 2.0])
def test_groups_that_cannot_be_are_refused(group: Any) -> None:
    with pytest.raises(UserError, match=r"Int4KVCodec.group must be a multiple of 2 from 2 to 65,536, not "):
        Int4KVCodec(group)
