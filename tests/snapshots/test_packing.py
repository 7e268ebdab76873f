"""A state comes back as it was, to the type and the bit, and an untrusted tree does no harm."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from rollforge.errors import UserError
from rollforge.files.checksummed import NAMES, read_sealed, write_sealed
from rollforge.snapshots.packing import DEEPEST, pack, unpack

QUIET = settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))

PLAIN = (
    st.none() | st.booleans() | st.integers() | st.integers(2**52, 2**70) | st.floats() | st.text(max_size=5)
    | st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 10**30, -0.0, math.inf, -math.inf, math.nan, "\ud800", ""])
)  # fmt: skip


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Of any format and up to three axes; whole, cut with strides, transposed, expanded or conjugated."""
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    dtype = draw(st.sampled_from(list(NAMES)))
    raw = draw(st.binary(min_size=(size := math.prod(shape) * dtype.itemsize), max_size=size))
    value = torch.tensor(list(raw), dtype=torch.uint8)
    value = (value % 2 if dtype is torch.bool else value).view(dtype).reshape(shape)
    ways = ["whole", "transposed", "expanded", "parameter", *["cut"] * bool(shape), *["conj"] * dtype.is_complex]
    match draw(st.sampled_from(ways)):
        case "transposed":
            return value.permute(tuple(reversed(range(value.dim()))))
        case "expanded":
            return value.expand(2, *shape)
        case "cut":
            return value[::2]
        case "conj":
            return value.conj()
        case "parameter" if dtype.is_floating_point:
            return torch.nn.Parameter(value)
    return value


def nested(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.text(max_size=4) | st.integers() | st.sampled_from(["1", 1, 2**60, "tensor"])
    return (
        st.lists(children, max_size=4) | st.lists(children, max_size=4).map(tuple)
        | st.dictionaries(keys, children, max_size=4)
    )  # fmt: skip


STATES = nested(st.recursive(PLAIN | tensors(), nested, max_leaves=8)).map(lambda inner: {"state": inner, 7: 8})


def same(one: Any, other: Any) -> bool:
    """Equal in value, type, order, sign of zero, and bit by bit where it is a tensor."""
    if isinstance(one, Tensor):
        alike = isinstance(other, Tensor) and (one.dtype, one.shape) == (other.dtype, other.shape)
        return alike and bits(one) == bits(other)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return same(list(one), list(other)) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other and repr(one) == repr(other)) or repr(one) == repr(other) == "nan"


def bits(value: Tensor) -> list[int]:
    listed: list[int] = (
        value.detach()
        .resolve_conj()
        .clone(memory_format=torch.contiguous_format)
        .reshape(-1)
        .view(torch.uint8)
        .tolist()
    )
    return listed


@given(STATES)
@QUIET
def test_a_state_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, state: Any) -> None:
    tree, kept = pack(state)
    text = json.dumps(tree, allow_nan=False)
    assert same(state, unpack(json.loads(text), kept))
    path = tmp_path_factory.getbasetemp() / "packed.safetensors"
    write_sealed(path, "kind", {"tree": text}, kept)
    words, back = read_sealed(path, "kind")
    assert same(state, unpack(json.loads(words["tree"]), back))
    assert not any(value.requires_grad for value in back.values())
    if not any(value.dtype.is_complex for value in kept.values()):  # which the library writes and does not read
        assert all(bits(value) == bits(back[name]) for name, value in load_file(path).items())


def test_tensors_that_share_storage_are_kept_apart(tmp_path: Path) -> None:
    base = torch.arange(12).reshape(3, 4)
    state = {"base": base, "row": base[1], "again": base, "column": base[:, 1], "back": base.T.flip(0)}
    _, kept = pack(state)
    write_sealed(tmp_path / "f", "kind", {}, kept)
    _, back = read_sealed(tmp_path / "f", "kind")
    assert all(same(value, back[name]) for name, value in kept.items())
    assert len({value.data_ptr() for value in back.values()}) == 5


def test_names_in_the_file_tell_where_a_tensor_belongs() -> None:
    _, kept = pack({"memory": {"prompt": [torch.ones(1), {3: torch.ones(1)}]}, "odd ü/\ud800": torch.ones(1)})
    assert list(kept) == ["0.memory.prompt.0", "1.memory.prompt.1.3", "2.odd____"]


class Word(str):
    """No plain string."""


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (object(), "of type object"),
        ({1, 2}, "of type set"),
        (Word("x"), "of type Word"),
        (OrderedDict(), "of type OrderedDict"),
        (torch.Size([1]), "of type Size"),
        ({True: 1}, "a dict with a key of type bool"),
        ({None: 1}, "a dict with a key of type NoneType"),
        (torch.ones(2).to_sparse(), "a tensor in the form sparse_coo, float32, cpu"),
        (torch.ones(2, dtype=torch.complex128), "a tensor in the form strided, complex128, cpu"),
        (torch.ones(2, device="meta"), "a tensor in the form strided, float32, meta"),
    ],
)
def test_what_would_not_come_back_is_named(value: Any, expected: str) -> None:
    with pytest.raises(UserError, match=rf"^No snapshot can be made: policy\.parts\.1 is {expected}, expected"):
        pack({"policy": {"parts": [0, value]}})


def test_a_state_that_contains_itself_is_named() -> None:
    with pytest.raises(UserError, match=f"nested more than {DEEPEST} levels deep"):
        pack({"cycle": CYCLE})


def deep(levels: int, leaf: Any) -> Any:
    for _ in range(levels):
        leaf = [leaf]
    return leaf


@pytest.mark.parametrize(
    "tree",
    [
        None, 3, "x", [], {}, {"dict": 1}, {"dict": {"a": 1}}, {"dict": [1]}, {"dict": [[1]]}, {"dict": [[1, 2, 3]]},
        {"dict": [[None, 1]]}, {"dict": [[True, 1]]}, {"dict": [[[], 1]]}, {"dict": [[{"dict": []}, 1]]},
        {"dict": [["a", 1], ["a", 2]]}, {"dict": [], "tuple": []}, {"tuple": []},
        *({"dict": [["x", bad]]} for bad in (
            {"other": 1}, {"tensor": "lost"}, {"tensor": ["there"]}, {"tensor": None}, {"float": "1"}, {"float": []},
            {"int": "two"}, {"int": 2}, {"int": ""}, {"tuple": "ab"}, {"tuple": {}}, {}, deep(DEEPEST + 1, 0),
        )),
    ],
)  # fmt: skip
def test_no_other_tree_is_taken(tree: Any) -> None:
    with pytest.raises(ValueError, match=r"state|int"):
        unpack(tree, {"there": torch.ones(1)})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just("there"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["dict", "tuple", "int", "float", "tensor", "x"]), inner, max_size=2
    ) | st.lists(st.lists(inner, min_size=2, max_size=2), max_size=2).map(lambda pairs: {"dict": pairs}),
)  # fmt: skip


@given(JSON)
@QUIET
def test_any_tree_is_taken_or_refused(tree: Any) -> None:
    try:
        state = unpack(tree, {"there": torch.ones(1)})
    except ValueError:
        return
    assert isinstance(state, dict)
    pack(state)
