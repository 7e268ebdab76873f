"""Finished latents come back block by block, and a gap or a damaged file is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rollforge.errors import UserError
from rollforge.snapshots import LatentStore, SnapshotStore

SIZES = [[1, 3, 3], [3], [3, 2]]
"""Frames of the blocks of three files: they start at frames 0, 7 and 10, and end at 15."""


def block(frames: int, start: int) -> Tensor:
    steps = torch.arange(start, start + frames, dtype=torch.float32)
    return steps.view(1, -1, 1, 1, 1).expand(2, frames, 4, 2, 3).bfloat16()


ALL = [size for sizes in SIZES for size in sizes]
BLOCKS = [block(size, sum(ALL[:n])) for n, size in enumerate(ALL)]


@pytest.fixture
def store(tmp_path: Path) -> LatentStore:
    store, blocks, start = LatentStore(tmp_path / "latents"), iter(BLOCKS), 0
    for sizes in SIZES:
        store.append([next(blocks) for _ in sizes], start)
        start += sum(sizes)
    return store


def alike(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) and a.dtype is b.dtype for a, b in zip(one, other, strict=True)
    )


def test_blocks_come_back_as_they_were_appended(store: LatentStore) -> None:
    assert sorted(os.listdir(store.folder)) == [f"latents-{start:06d}.safetensors" for start in (0, 7, 10)]
    assert store.frames == 15
    assert alike(list(store.read()), BLOCKS)
    assert LatentStore(store.folder / "none").frames == 0
    assert list(LatentStore(store.folder / "none").read(0)) == []


@pytest.mark.parametrize(("stop", "blocks"), [(0, 0), (1, 1), (4, 2), (7, 3), (10, 4), (13, 5), (15, 6)])
def test_reading_and_cutting_end_where_a_block_ends(store: LatentStore, stop: int, blocks: int) -> None:
    assert alike(list(store.read(stop)), BLOCKS[:blocks])
    store.truncate(stop)
    assert store.frames == stop
    assert alike(list(store.read(stop)), BLOCKS[:blocks])
    store.append(BLOCKS[blocks:], stop)
    assert alike(list(store.read()), BLOCKS)


@pytest.mark.parametrize("frame", [2, 9, 14])
def test_no_block_is_cut(store: LatentStore, frame: int) -> None:
    with pytest.raises(UserError, match=f"no block in it ends at frame {frame}"):
        list(store.read(frame))
    with pytest.raises(UserError, match=f"no block in it ends at frame {frame}"):
        store.truncate(frame)


def test_a_file_is_opened_when_its_first_block_is_asked_for(store: LatentStore) -> None:
    reading = store.read()
    first = [next(reading) for _ in SIZES[0]]
    spoil(store, 7, -1)
    assert alike(first, BLOCKS[:3])
    with pytest.raises(UserError, match=r"latents-000007.safetensors cannot be used \(its checksum differs\)"):
        next(reading)
    assert alike(list(store.read(7)), BLOCKS[:3])


def spoil(store: LatentStore, start: int, at: int) -> None:
    path = store.folder / f"latents-{start:06d}.safetensors"
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)


def test_a_missing_file_is_named(store: LatentStore) -> None:
    (store.folder / "latents-000007.safetensors").unlink()
    with pytest.raises(UserError, match=r"latents-000007.safetensors cannot be used \(it is missing"):
        list(store.read())
    store.truncate(10)
    assert store.frames == 7
    with pytest.raises(UserError, match=r"latents-000007.safetensors .* \(it is missing, and frames up to 15 are need"):
        list(store.read(15))


def test_a_file_under_another_name_is_named(store: LatentStore) -> None:
    (store.folder / "latents-000010.safetensors").rename(store.folder / "latents-000007.safetensors")
    with pytest.raises(UserError, match=r"latents-000007.*it does not start at the frame in its name"):
        list(store.read())
    SnapshotStore(store.folder).save(1, {"x": torch.zeros(2)}, {})
    (store.folder / "snapshot-000001.safetensors").rename(store.folder / "latents-000007.safetensors")
    with pytest.raises(UserError, match=r"latents-000007.*it is not of kind latents"):
        _ = store.frames


def test_damage_beyond_the_snapshot_does_not_matter(store: LatentStore) -> None:
    spoil(store, 10, 3)
    with pytest.raises(UserError, match="latents-000010"):
        _ = store.frames
    store.truncate(10)
    assert store.frames == 10


def test_what_does_not_follow_is_a_mistake_of_the_caller(store: LatentStore) -> None:
    with pytest.raises(ValueError, match="the latents end at frame 15; blocks from frame 10 on do not follow"):
        store.append(BLOCKS[-1:], 10)
    with pytest.raises(ValueError, match=r"blocks must be \[B, F, C, H, W\], not \[\[3\]\]"):
        store.append([torch.zeros(3)], 15)
    store.append([], 15)
    assert store.frames == 15


def test_more_blocks_than_names_of_equal_length(tmp_path: Path) -> None:
    store = LatentStore(tmp_path)
    store.append([torch.full((1, 1, 1, 1, 1), n) for n in range(1200)], 0)
    assert [int(each) for each in store.read()] == list(range(1200))


def test_snapshots_and_latents_share_a_folder(store: LatentStore) -> None:
    snapshots = SnapshotStore(store.folder)
    snapshots.save(6, {"x": 1}, {})
    (store.folder / "latents-000015.safetensors.partial").write_bytes(b"half")
    store.append([block(3, 15)], 15)
    assert not [name for name in os.listdir(store.folder) if name.endswith(".partial")]
    store.clear()
    assert os.listdir(store.folder) == ["snapshot-000006.safetensors"]
    snapshots.clear()
    assert not store.folder.exists()
