"""Whatever happens to a file: the older snapshot is taken or an error says why, and wrong content never comes back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rollforge.errors import UserError
from rollforge.snapshots import SnapshotStore, pack

MANY = settings(deadline=None, max_examples=250, suppress_health_check=list(HealthCheck))


def state(number: int) -> dict[str, Any]:
    return {"n": number, "a": torch.full((3,), float(number)), "b": [torch.tensor([True, False]), (2**60, "ü", None)]}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SnapshotStore]:
    store = SnapshotStore(tmp_path_factory.mktemp("damage"))
    for number in (1, 2):
        store.save(number, state(number), {"of": number})
    logging.getLogger("rollforge.snapshots.store").setLevel(logging.ERROR)  # hundreds of warnings
    yield store
    logging.getLogger("rollforge.snapshots.store").setLevel(logging.NOTSET)


@pytest.fixture(scope="module")
def good(store: SnapshotStore) -> tuple[bytes, bytes]:
    first, second = sorted(store.folder.iterdir())
    return first.read_bytes(), second.read_bytes()


def survives(store: SnapshotStore, old: bytes, new: bytes, expected: int | None) -> None:
    """With these bytes as files the snapshot ``expected`` is the newest; with None there is only an error."""
    (store.folder / "snapshot-000001.safetensors").write_bytes(old)
    (store.folder / "snapshot-000002.safetensors").write_bytes(new)
    if expected is None:
        with pytest.raises(UserError, match="None of the 2 snapshots"):
            store.newest()
        return
    found = store.newest()
    assert found is not None
    assert (found.number, found.identity) == (expected, {"of": expected})
    (tree, tensors), (wanted, kept) = pack(found.state), pack(state(expected))
    assert tree == wanted
    assert all(torch.equal(value, kept[name]) for name, value in tensors.items())


@given(st.data())
@MANY
def test_cut_anywhere(store: SnapshotStore, good: tuple[bytes, bytes], data: st.DataObject) -> None:
    cut = good[1][: data.draw(st.integers(0, len(good[1]) - 1))]
    survives(store, good[0], cut, 1)


@given(st.data())
@MANY
def test_any_bit_flipped(store: SnapshotStore, good: tuple[bytes, bytes], data: st.DataObject) -> None:
    flipped = [bytearray(each) for each in good]
    for each in flipped:
        at = data.draw(st.integers(0, len(each) - 1) | st.integers(0, 40))
        each[at] ^= 1 << data.draw(st.integers(0, 7))
    survives(store, good[0], bytes(flipped[1]), 1)
    survives(store, bytes(flipped[0]), bytes(flipped[1]), None)


@given(st.data())
@MANY
def test_bytes_changed_added_and_lost(store: SnapshotStore, good: tuple[bytes, bytes], data: st.DataObject) -> None:
    start, length = data.draw(st.integers(0, len(good[1]))), data.draw(st.integers(0, 30))
    damaged = good[1][:start] + data.draw(st.binary(max_size=30)) + good[1][start + length :]
    survives(store, good[0], damaged, 2 if damaged == good[1] else 1)


@given(st.binary(max_size=300), st.integers(0, 64))
@MANY
def test_random_bytes(store: SnapshotStore, good: tuple[bytes, bytes], noise: bytes, opening: int) -> None:
    survives(store, good[0], good[1][:opening] + noise, 1)
    survives(store, noise, good[1][:opening] + noise, None)


def test_the_good_ones_are_taken(store: SnapshotStore, good: tuple[bytes, bytes], tmp_path: Path) -> None:
    survives(store, *good, 2)
    survives(store, b"", good[1], 2)
    survives(store, good[1], good[0], None)  # under each other's names
