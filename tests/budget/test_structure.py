"""Counts are made once for all components of one structure, and again for each other one."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from rollforge.backbones.pocket.codec import PocketCodec
from rollforge.budget.structure import once_per_structure


class Sized(nn.Module):
    def __init__(self, width: int, note: Any = "", dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight, self.note = nn.Parameter(torch.randn(width, dtype=dtype)), note


@pytest.fixture
def counts() -> list[Any]:
    return []


@pytest.fixture
def count(counts: list[Any]) -> Any:
    return once_per_structure(lambda module, frames=1: (counts.append(weakref.ref(module)), frames)[1])


def test_other_numbers_are_no_other_structure(count: Any, counts: list[Any]) -> None:
    assert [count(PocketCodec(width=16, weights="random"), 3) for _ in range(3)] == [3] * 3
    assert len(counts) == 1


@pytest.mark.parametrize(
    "other",
    [
        Sized(5),
        Sized(4, "tiled"),
        Sized(4, dtype=torch.bfloat16),
        nn.Sequential(Sized(4)),
        type("Sized", (Sized,), {})(4),
    ],
    ids=["shape", "attribute", "dtype", "layers", "class of the same name"],
)
def test_whatever_shapes_may_depend_on_is(count: Any, counts: list[Any], other: nn.Module) -> None:
    count(Sized(4))
    count(other)
    assert len(counts) == 2


def test_other_arguments_are_counted_again(count: Any, counts: list[Any]) -> None:
    assert [count(Sized(4), frames=frames) for frames in (1, 2, 1)] == [1, 2, 1]
    assert len(counts) == 2


def test_a_module_that_cannot_be_pickled_is_like_itself_alone(count: Any, counts: list[Any]) -> None:
    one = Sized(4, note=(each for each in ()))
    for module in (one, one, Sized(4)):
        count(module)
    assert len(counts) == 2


def test_no_module_is_kept_alive(count: Any, counts: list[Any]) -> None:
    count(Sized(4))
    gc.collect()
    assert counts[0]() is None
