"""Damaged snapshots and latents: an older one, an error, or the very state that was saved."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import changes, damaged, twisted
from hypothesis import strategies as st
from torch import Tensor
from watch import ERROR, RESULT, answered, fuzz

from rollforge.files.checksummed import write_sealed
from rollforge.snapshots import LatentStore, SnapshotStore, pack, unpack

BLOCKS = [torch.full((1, 2, 1, 2, 2), float(n)).bfloat16() for n in range(6)]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    log = logging.getLogger("rollforge.snapshots.store")
    log.disabled = True  # hundreds of warnings
    yield
    log.disabled = False


def state(number: int) -> dict[str, Any]:
    return {"n": number, "a": torch.full((3,), float(number)), "b": [torch.tensor([True]), (2**60, "ü", None, 1e300)]}


def same(one: Any, other: Any) -> None:
    """Asserts that two states are equal, also in their types."""
    (tree, tensors), (wanted, kept) = pack(one), pack(other)
    assert repr(tree) == repr(wanted)
    assert tensors.keys() == kept.keys()
    assert all(torch.equal(value, kept[name]) for name, value in tensors.items())


def test_snapshots(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    for number in (1, 2):
        store.save(number, state(number), {"of": number})
    files = [tmp_path / f"snapshot-{number:06d}.safetensors" for number in (1, 2)]
    good = [file.read_bytes() for file in files]
    any_change = st.lists(changes(len(good[1])), min_size=2, max_size=2)

    def right(found: Any) -> None:
        assert found
        for snapshot in found:
            assert snapshot.identity == {"of": snapshot.number}
            same(snapshot.state, state(snapshot.number))

    def door(both: Any) -> str:
        for file, content, made in zip(files, good, both, strict=True):
            file.write_bytes(damaged(content, made))
        return answered(lambda: list(store.all()), right)

    fuzz("snapshots", 150, any_change | any_change.map(lambda both: [[], both[1]]), door)


def test_snapshots_whose_checksum_is_right(tmp_path: Path) -> None:
    """No run writes them. What they hold is plain data, whatever it says."""
    store, path = SnapshotStore(tmp_path), tmp_path / "snapshot-000003.safetensors"
    tree, tensors = pack(state(3))
    words = {"number": "3", "identity": json.dumps({"of": 3}), "tree": json.dumps(tree)}

    def right(found: Any) -> None:
        assert found.number == 3
        assert isinstance(found.identity, dict)
        again, kept = pack(found.state)
        same(unpack(again, kept), found.state)

    def door(case: tuple[str, Any]) -> str:
        word, value = case
        text = value if isinstance(value, str) and len(value) % 2 else json.dumps(value)
        write_sealed(path, "snapshot", words | {word: text}, tensors)
        return answered(store.newest, right)

    odd = st.tuples(st.just("tree"), twisted(tree)) | st.tuples(st.sampled_from(list(words)), twisted({"of": 3}))
    fuzz("snapshots", 75, odd, door)


def test_latents(tmp_path: Path) -> None:
    store = LatentStore(tmp_path)
    for n in range(0, 6, 2):
        store.append(BLOCKS[n : n + 2], 2 * n)
    good = {file: file.read_bytes() for file in tmp_path.iterdir()}
    size = max(map(len, good.values()))

    def whole(blocks: list[Tensor]) -> None:
        assert all(torch.equal(block, wanted) for block, wanted in zip(blocks, BLOCKS, strict=False))

    def door(case: tuple[int, int, Any]) -> str:
        which, stop, made = case
        for file in tmp_path.iterdir():
            file.unlink()
        for n, (file, content) in enumerate(sorted(good.items())):
            file.write_bytes(damaged(content, made) if n == which else content)

        def up_to(blocks: list[Tensor]) -> None:
            whole(blocks)
            assert 2 * len(blocks) == stop

        outcomes = {answered(lambda: list(store.read(stop)), up_to), answered(lambda: list(store.read()), whole)}
        outcomes.add(answered(lambda: store.truncate(stop), lambda _: None))
        outcomes.add(answered(lambda: list(store.read(stop)), up_to))
        assert all(name.startswith("latents-") and name.endswith(".safetensors") for name in os.listdir(tmp_path))
        return ERROR if ERROR in outcomes else RESULT

    fuzz("latents", 100, st.tuples(st.integers(0, 2), st.sampled_from([0, 2, 4, 8, 12, 14]), changes(size)), door)
