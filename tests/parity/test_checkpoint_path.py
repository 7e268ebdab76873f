"""The plain rollouts again, with the weights of each case read from a checkpoint as the authors publish theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import test_authors as authors
import torch
from checkpoints import family
from safetensors.torch import load_file
from torch import Tensor

from rollforge.backbones.wan.network import Wan

FOLDERS = [folder for folder in authors.FOLDERS if getattr(folder, "parent", None) == authors.CASES]
FOLDERS = FOLDERS or [pytest.param(authors.CASES, marks=authors.ABSENT)]
UNSEEN = ("heads", "text_len", "eps", "block", "window")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_published_checkpoint_rolls_as_the_authors_program_does(
    folder: Path, record: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(folder: Path, meta: dict[str, Any], inputs: dict[str, Tensor]) -> Wan:
        averaged = load_file(folder / "weights.safetensors")
        trained = {name: value + 1 for name, value in averaged.items()}
        file = family(tmp_path / "self_forcing_dmd.pt", trained, averaged)
        height, width = inputs["noise"].shape[-2:]
        sizes = {name: meta[name] for name in UNSEEN} | {"horizon": meta["window"]}
        model = Wan(height=height, width=width, weights=str(file), dtype="fp32", **sizes).eval()
        assert next(model.parameters()).dtype is torch.float32
        assert (model.spec.layers, model.spec.tokens) == (meta["layers"], meta["tokens_per_frame"])
        return model

    monkeypatch.setattr(authors, "build", build)
    authors.test_a_whole_rollout_equals_the_authors_program(folder, record)
