"""The smallest model that a command can run, on one thread, and its video as small as it is."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch

MODEL: dict[str, Any] = {
    "backbone": {
        "class_path": "Pocket",
        "init_args": {
            "dim": 32,
            "layers": 1,
            "heads": 2,
            "ffn_dim": 64,
            "window": 6,
            "horizon": 6,
            "weights": "random",
        },
    },
    "conditioner": {"class_path": "PocketText"},
    "codec": {"class_path": "PocketCodec", "init_args": {"width": 16, "weights": "random"}},
    "policy": {"class_path": "RollingSink", "init_args": {"context_blocks": 2, "sink_blocks": 1}},
    "sampler": {"class_path": "Euler", "init_args": {"steps": 1}},
}
LONGER = deepcopy(MODEL)
"""One with room for a longer context, whose runs are stopped and resumed."""
LONGER["backbone"]["init_args"].update(window=12, horizon=12)
LONGER["policy"]["init_args"].update(context_blocks=3, sink_blocks=2)
LONGER["sampler"]["init_args"].update(steps=2, guidance=1.0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small models are faster on one thread, and give the same numbers on every machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def not_enlarged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos as small as the model makes them: 384 pixels, as by default, take longer to encode than to roll."""
    monkeypatch.setattr("rollforge.video.writer.SMALL", 1)
