"""A long rollout holds no more memory at its end than early on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

BLOCKS = 2000
PAGE = 4096
GROWTH = 12 * 1024**2  # bytes; keys and values of all blocks would be ten times that


@pytest.mark.parametrize("kv", ["save"])
def test_two_thousand_blocks_hold_no_more_memory_than_two_hundred(case: Any, kv: str) -> None:
    case.config["model"]["backbone"]["init_args"] |= {"block": 1}
    case.config["model"]["sampler"] = {"class_path": "Euler", "init_args": {"steps": 1}}
    case.config["data"]["seconds"] = BLOCKS / 8
    case.config["snapshots"] |= {"kv": kv, "every_blocks": 50}
    process = case.start()
    held: list[tuple[int, int]] = []  # blocks, bytes
    while process.code is None:
        try:
            resident = int(Path(f"/proc/{process.forked.pid}/statm").read_text().split()[1]) * PAGE
        except (OSError, IndexError):
            break
        held.append((case.number(), resident))
        time.sleep(0.05)
    assert process.wait() == 0, process.said
    early = [size for blocks, size in held if 200 <= blocks < 600]
    late = [size for blocks, size in held if blocks >= 1500]
    assert max(late) - max(early) < GROWTH, (max(early), max(late))
    assert case.manifest()["videos"][0]["frames"] == BLOCKS
