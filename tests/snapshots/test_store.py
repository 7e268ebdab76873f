"""Which snapshots are kept, which one is taken, and what is said of the others."""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rollforge.errors import UserError
from rollforge.files.checksummed import OPENING, write_sealed
from rollforge.snapshots import SnapshotStore

IDENTITY = {"config": {"model": [1, None]}, "weights": {"backbone": "ab" * 32}}


def state(number: int) -> dict[str, Any]:
    return {"number": number, "latents": torch.full((4, 5), number, dtype=torch.bfloat16), 3: (1.5, None)}


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path / "run" / "snapshots")


def test_the_newest_come_back_and_the_others_go(store: SnapshotStore) -> None:
    assert store.newest() is None
    for number in (0, 5, 10, 1_000_000):
        store.save(number, state(number), IDENTITY)
    found = list(store.all())
    assert [snapshot.number for snapshot in found] == [1_000_000, 10]
    for snapshot in found:
        assert snapshot.identity == IDENTITY
        assert snapshot.state["number"] == snapshot.number
        assert snapshot.state["latents"].unique().tolist() == [state(snapshot.number)["latents"][0, 0]]
        assert snapshot.state[3] == (1.5, None)
    assert sorted(os.listdir(store.folder)) == ["snapshot-000010.safetensors", "snapshot-1000000.safetensors"]


def test_a_snapshot_is_a_safetensors_file(store: SnapshotStore) -> None:
    store.save(3, state(3), IDENTITY)
    with safe_open(store.folder / "snapshot-000003.safetensors", "pt") as opened:
        words = opened.metadata()
        assert torch.equal(opened.get_tensor("0.latents"), state(3)["latents"])
    assert json.loads(words["identity"]) == IDENTITY
    assert (words["kind"], words["version"], words["number"], len(words["checksum"])) == ("snapshot", "1", "3", 64)


def test_snapshots_of_later_blocks_are_of_a_run_given_up(store: SnapshotStore) -> None:
    for number in (10, 20):
        store.save(number, state(number), {})
    damage(store, 20)
    store.save(15, state(15), {})
    assert [snapshot.number for snapshot in store.all()] == [15, 10]
    assert len(os.listdir(store.folder)) == 2


def damage(store: SnapshotStore, number: int, at: int = -1, add: int = 1) -> None:
    path = store.folder / f"snapshot-{number:06d}.safetensors"
    content = bytearray(path.read_bytes())
    content[at] = (content[at] + add) % 256
    path.write_bytes(content)


def rewrite(path: Path, **words: Any) -> None:
    """A file whose checksum is right and whose words are not."""
    header = {"number": "20", "identity": "{}", "tree": '{"dict": []}'} | words
    write_sealed(path, "snapshot", {name: word for name, word in header.items() if word is not None}, {})


WORDS = {"kind": "snapshot", "version": "1"}
HUGE = {"__metadata__": WORDS, "x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
DAMAGE = {
    "truncated: it is empty": lambda path: path.write_bytes(b""),
    "truncated: it has 400 bytes": lambda path: path.write_bytes(path.read_bytes()[:400]),
    r"truncated: it has \d+ of \d+ bytes": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    r"too long: it has \d+ of \d+ bytes": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "its checksum differs": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\xff"),
    "it is not of kind snapshot": lambda path: save_file({"x": torch.zeros(2)}, path),
    "it is not of kind snapshot ": lambda path: path.write_bytes(b"a text, or what else may have come here by mistake"),
    "it is not of kind snapshot  ": lambda path: path.write_bytes(struct.pack("<Q", 2**63) + OPENING * 3),
    "it is not of kind snapshot   ": lambda path: write_sealed(path, "latents", {}, {"x": torch.zeros(2)}),
    "unknown format version 2, expected 1": lambda path: write_sealed(path, "snapshot", {"version": "2"}, {}),
    "its header is garbled": lambda path: path.write_bytes(path.read_bytes().replace(b'"dtype"', b'"dtyqe"')),
    "it is the snapshot of block 7 under another name": lambda path: rewrite(path, number="7"),
    "its content is garbled": lambda path: rewrite(path, tree='{"dict": [["x", {"tensor": "lost"}]]}'),
    "its content is garbled ": lambda path: rewrite(path, tree="[" * 100_000),
    "its content is garbled  ": lambda path: rewrite(path, identity="[]"),
    "its content is garbled   ": lambda path: rewrite(path, identity=None),
}


@pytest.mark.parametrize("reason", DAMAGE)
def test_a_damaged_one_is_named_and_the_one_before_it_taken(
    store: SnapshotStore, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (10, 20):
        store.save(number, state(number), IDENTITY)
    path = store.folder / "snapshot-000020.safetensors"
    DAMAGE[reason](path)
    with caplog.at_level(logging.WARNING):
        found = store.newest()
    assert found is not None
    assert found.number == 10
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.name == "rollforge.snapshots.store"
    caplog.clear()
    path_10 = store.folder / "snapshot-000010.safetensors"
    path_10.unlink()
    with pytest.raises(UserError, match=r"^None of the 1 snapshots in .* can be used, .* --overwrite true\.$"):
        store.newest()
    assert_names(record.getMessage(), path, reason.strip())


def assert_names(message: str, path: Path, reason: str) -> None:
    pattern = rf"^The snapshot {re.escape(str(path))} cannot be used \({reason}.*\); trying the previous one\.$"
    assert re.match(pattern, message), message


@pytest.mark.parametrize(
    ("header", "rest"),
    [
        (HUGE, b""),
        ({"__metadata__": WORDS, "x": {"dtype": "U8", "shape": [0, 2**61, 2**61], "data_offsets": [0, 0]}}, b""),
        ({"__metadata__": WORDS, "x": {"dtype": "U8", "shape": [0, 2**70], "data_offsets": [0, 0]}}, b""),
        ({"__metadata__": WORDS, "x": {"dtype": "U8", "shape": [0] + [1] * 99, "data_offsets": [0, 0]}}, b""),
        ({"__metadata__": WORDS, "x": {"dtype": "U8", "shape": [-1, -8], "data_offsets": [0, 8]}}, b"12345678"),
        ({"__metadata__": WORDS, "x": {"dtype": "U8", "shape": [8.0], "data_offsets": [0, 8]}}, b"12345678"),
        ({"__metadata__": WORDS, "x": {"dtype": "U8", "shape": [8], "data_offsets": [1, 9]}}, b"123456789"),
        ({"__metadata__": WORDS, "x": {"dtype": "U8", "shape": [8], "data_offsets": "0"}}, b"12345678"),
        ({"__metadata__": WORDS, "x": {"dtype": ["U8"], "shape": [8], "data_offsets": [0, 8]}}, b"12345678"),
        ({"__metadata__": WORDS, "x": {"dtype": "U9", "shape": [8], "data_offsets": [0, 8]}}, b"12345678"),
        ({"__metadata__": WORDS, "x": 3}, b""),
        ({"__metadata__": WORDS | {"number": 3}}, b""),
        ({"__metadata__": WORDS | {"kind": None}}, b""),
        ({"__metadata__": {}}, b""),
        ({"__metadata__": WORDS, "x": {}}, b""),
    ],
)
def test_a_crafted_header_does_no_harm(store: SnapshotStore, header: Any, rest: bytes) -> None:
    store.folder.mkdir(parents=True)
    words = header["__metadata__"]
    others = {name: fields for name, fields in header.items() if name != "__metadata__"}
    text = OPENING + b"0" * 64 + b'"' + b"".join(b", " + json.dumps({k: v}).encode()[1:-1] for k, v in words.items())
    text += b"}" + b"".join(b", " + json.dumps({k: v}).encode()[1:-1] for k, v in others.items()) + b"}"
    (store.folder / "snapshot-000001.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + rest)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="None of the 1 snapshots"):
        store.newest()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_a_full_disk_leaves_the_older_ones(store: SnapshotStore) -> None:
    for number in (1, 2):
        store.save(number, state(number), {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(UserError, match=r"snapshot-000003.safetensors cannot be written \(File too large\)"):
            store.save(3, {"large": torch.zeros(50_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [snapshot.number for snapshot in store.all()] == [2, 1]
    assert len(os.listdir(store.folder)) == 2


def test_a_state_that_cannot_be_kept_leaves_the_older_ones(store: SnapshotStore) -> None:
    store.save(1, state(1), {})
    with pytest.raises(UserError, match="No snapshot can be made: x is of type object"):
        store.save(2, {"x": object()}, {})
    assert [snapshot.number for snapshot in store.all()] == [1]


def test_a_caller_may_go_on_to_an_older_one(store: SnapshotStore) -> None:
    for number in (1, 2):
        store.save(number, state(number), {"frames": number})
    fitting = next((snapshot for snapshot in store.all() if snapshot.identity["frames"] < 2), None)
    assert fitting is not None
    assert fitting.number == 1
    assert [snapshot.number for snapshot in store.all() if snapshot.number > 5] == []


def test_what_a_killed_write_leaves_is_ignored_and_swept(store: SnapshotStore) -> None:
    store.folder.mkdir(parents=True)
    (store.folder / "snapshot-000009.safetensors.partial").write_bytes(b"half")
    (store.folder / "latents-000009.safetensors.partial").write_bytes(b"of another")
    assert store.newest() is None
    store.save(3, state(3), {})
    assert sorted(os.listdir(store.folder)) == ["latents-000009.safetensors.partial", "snapshot-000003.safetensors"]


def test_clear_takes_its_own_files_and_an_empty_folder(store: SnapshotStore) -> None:
    store.clear()
    store.save(3, state(3), {})
    (store.folder / "snapshot-000009.safetensors.partial").write_bytes(b"half")
    (store.folder / "notes.txt").write_text("mine")
    store.clear()
    assert os.listdir(store.folder) == ["notes.txt"]
    (store.folder / "notes.txt").unlink()
    store.clear()
    assert not store.folder.exists()
    assert store.newest() is None


def test_a_tensor_at_a_time_is_copied(store: SnapshotStore) -> None:
    strided = {str(n): torch.zeros(1000, 2000, dtype=torch.uint8).T for n in range(20)}  # to be written they are copied
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    store.save(1, strided, {})
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB, of 40_000


def test_keep_must_keep() -> None:
    with pytest.raises(UserError, match="At least 1 snapshot must be kept, not 0"):
        SnapshotStore(Path("x"), keep=0)
