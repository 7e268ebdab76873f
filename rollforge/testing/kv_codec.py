"""The check of KV codecs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rollforge.memory import KVCodec
from rollforge.state import odd
from rollforge.testing.rules import expect, fail, keeping, same

SHAPE = (6, 2, 16)  # tokens, heads, head_dim


def check_kv_codec(kv_codec: KVCodec, *, tolerance: float | None = None) -> None:
    """Checks a KV codec.

    Args:
        kv_codec: as a config would build it.
        tolerance: how far keys and values may come back changed, relative to the largest. Default: its own.

    Raises:
        CheckFailed: with the rule and the values.
    """
    tolerance = kv_codec.tolerance if tolerance is None else tolerance
    for dtype in (torch.float32, torch.bfloat16):
        generator = torch.Generator().manual_seed(5)
        given = [torch.randn(2, *SHAPE, generator=generator).to(dtype) * scale for scale in (1, 3)]
        mine = [each.clone() for each in given]
        kept = _encode(kv_codec, mine)
        if where := odd({"kept": kept}):
            fail("kv-plain", kv_codec, f"It keeps something else at {where}.")
        first = [each.clone() for each in _decode(kv_codec, kept, given, dtype)]
        for name, found, expected in zip("kv", _decode(kv_codec, kept, given, dtype), first, strict=True):
            same("kv-again", kv_codec, f"Decoded a second time, {name}:", found, expected)
        for name, found, expected in zip("kv", first, given, strict=True):
            same("kv-error", kv_codec, f"In {name} ({dtype})", found, expected, tolerance)
        for row in (0, 1):
            alone = [each[row : row + 1].clone() for each in given]
            for name, found, both in zip(
                "kv", _decode(kv_codec, _encode(kv_codec, alone), alone, dtype), first, strict=True
            ):
                same("kv-batch", kv_codec, f"In row {row} of {name}", both[row : row + 1], found)


def _encode(kv_codec: KVCodec, given: list[Tensor]) -> Any:
    with keeping("kv-shape", kv_codec, f"Encoding {list(given[0].shape)}"):
        return kv_codec.encode(*given)


def _decode(kv_codec: KVCodec, kept: Any, given: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    with keeping("kv-shape", kv_codec, f"Decoding {list(given[0].shape)}"):
        found = list(kv_codec.decode(kept))
    shapes = [(list(each.shape), each.dtype) for each in found]
    problem = f"It gives back {shapes} for two of {list(given[0].shape)}, {dtype}."
    fits = len(found) == 2 and all(each.shape == given[0].shape and each.dtype == dtype for each in found)
    expect(fits, "kv-shape", kv_codec, problem)
    return [each.clone() for each in found]
