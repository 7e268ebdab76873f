"""Devices: which dtype they work in."""

from __future__ import annotations

import pytest
import torch

from rollforge.backbones.wan.tiny import TinyWanDecoder
from rollforge.budget.memory_input import decoding_dtype
from rollforge.devices import working_dtype


@pytest.mark.parametrize(
    ("present", "computes", "expected"),
    [(True, True, torch.bfloat16), (True, False, torch.float32), (False, False, torch.bfloat16)],
)
def test_auto_is_bfloat16_only_where_the_card_computes_in_it(
    present: bool, computes: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: present)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or computes
    )
    assert working_dtype("cuda:0") is expected
    assert decoding_dtype(TinyWanDecoder(channels=(8, 8, 8, 8)), "cuda:0") is expected
    assert working_dtype("cpu") is torch.float32
    assert working_dtype("mps") is torch.float32
