"""Processes killed while they write: each time a good snapshot is there, with the latents that belong to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("killed.py")


def test_a_good_snapshot_is_there_after_every_kill(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(tmp_path / "run")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert not output.stderr
    kills = [json.loads(line) for line in output.stdout.splitlines()]
    for kill in kills:
        assert kill["signal"] == 9
        assert kill["right"], kill
        assert 0 <= kill["frames"] - 3 * kill["number"] <= 3, kill  # at most one newer file of latents
    numbers = [kill["number"] for kill in kills]
    at_random, in_pairs = numbers[:10], numbers[10:]
    assert at_random == sorted(set(at_random))
    assert at_random[0] > 0
    assert len(in_pairs) == 2 * (9 + 5 + 9)
    assert all(first <= second for first, second in zip(in_pairs[::2], in_pairs[1::2], strict=True))
    assert {0, 1, 2} <= set(in_pairs)
