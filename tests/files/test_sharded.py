"""Sharded checkpoints come back as they were, and run no code."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from lightning.fabric.utilities.load import _lazy_load
from torch.distributed.checkpoint.api import CheckpointException

from rollforge.errors import UserError
from rollforge.files.sharded import FILE, check_folder, restricted

STATE: dict[str, Any] = {
    "model": {"weight": torch.arange(6.0).view(2, 3), "half": torch.ones(2, dtype=torch.bfloat16)},
    "step": 3,
    "names": ["a", {"b": (1, 2)}],
}
EMPTY: dict[str, Any] = {
    "model": {"weight": torch.zeros(2, 3), "half": torch.zeros(2, dtype=torch.bfloat16)},
    "step": 0,
    "names": ["", {"b": None}],
}


class Code:
    """Touches a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sharded checkpoint."""
    dcp.save(dict(STATE), checkpoint_id=tmp_path / "sharded")
    return tmp_path / "sharded"


def change(folder: Path, by: Callable[[Any], None]) -> None:
    found = pickle.loads((folder / FILE).read_bytes())
    by(found)
    (folder / FILE).write_bytes(pickle.dumps(found))


def load(folder: Path, **more: Any) -> dict[str, Any]:
    found = {**EMPTY, "model": dict(EMPTY["model"]), **more}
    with restricted():
        dcp.load(found, checkpoint_id=folder)
    return found


def test_a_sharded_checkpoint_comes_back(folder: Path) -> None:
    check_folder(folder)
    found = load(folder)
    assert (found["step"], found["names"]) == (3, ["a", {"b": (1, 2)}])
    for name, value in STATE["model"].items():
        assert torch.equal(found["model"][name], value)


def test_its_metadata_runs_no_code(folder: Path, tmp_path: Path) -> None:
    change(folder, lambda found: setattr(found, "planner_data", Code(tmp_path / "mark")))
    with pytest.raises(UserError, match=r"\.metadata .*asks for pathlib.*Path\.touch|asks for builtins.getattr"):
        check_folder(folder)
    with pytest.raises(CheckpointException):
        load(folder)
    assert not (tmp_path / "mark").exists()


def test_its_values_run_no_code(tmp_path: Path) -> None:
    dcp.save({**STATE, "more": Code(tmp_path / "mark")}, checkpoint_id=tmp_path / "sharded")
    with pytest.raises(CheckpointException):
        load(tmp_path / "sharded", more=0)
    assert not (tmp_path / "mark").exists()


def test_it_reads_no_file_of_another_folder(folder: Path) -> None:
    def elsewhere(found: Any) -> None:
        next(iter(found.storage_data.values())).relative_path = "../other.distcp"

    change(folder, elsewhere)
    with pytest.raises(UserError, match=r"it names the file \.\./other\.distcp"):
        check_folder(folder)


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps({"a": 1})])
def test_what_is_not_the_metadata_of_a_checkpoint_is_one_sentence(folder: Path, content: bytes) -> None:
    (folder / FILE).write_bytes(content)
    with pytest.raises(UserError, match="is damaged or holds more than a checkpoint does"):
        check_folder(folder)


def test_a_checkpoint_file_that_is_read_lazily_runs_no_code(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(3), "more": OrderedDict(a=1)}, tmp_path / "good.ckpt")
    torch.save({"weight": Code(tmp_path / "mark")}, tmp_path / "bad.ckpt")
    with restricted():
        assert _lazy_load(tmp_path / "good.ckpt")["weight"].shape == (3,)
        with pytest.raises(pickle.UnpicklingError, match="it asks for"):
            _lazy_load(tmp_path / "bad.ckpt")
    assert not (tmp_path / "mark").exists()
    with restricted(weights_only=False):  # as typed
        _lazy_load(tmp_path / "bad.ckpt")
    assert (tmp_path / "mark").exists()
