"""A long rollout holds no more memory at its end than early on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

PAGE = 4096
GROWTH = 12 * 1024**2  # bytes; keys and values of a thousand blocks would be five times that


@pytest.mark.parametrize("blocks", [400, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_long_rollout_holds_no_more_memory_than_its_beginning(case: Any, blocks: int) -> None:
    case.config["model"]["backbone"]["init_args"] |= {"block": 1}
    case.config["model"]["sampler"] = {"class_path": "Euler", "init_args": {"steps": 1}}
    case.config["data"]["seconds"] = blocks / 8
    case.config["snapshots"] |= {"kv": "save", "every_blocks": 50}
    process = case.start()
    held: list[tuple[int, int]] = []  # blocks, bytes
    while process.code is None:
        try:
            resident = int(Path(f"/proc/{process.forked.pid}/statm").read_text().split()[1]) * PAGE
        except (OSError, IndexError):
            break
        held.append((case.number(), resident))
        time.sleep(0.05)
    assert process.wait() == 0, process.printed
    early = [size for number, size in held if 200 <= number < 400]
    late = [size for number, size in held if number >= 0.75 * blocks]
    assert max(late) - max(early) < GROWTH, (max(early), max(late))
    assert case.manifest()["videos"][0]["frames"] == blocks
