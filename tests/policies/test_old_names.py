"""Policies written for version 0.1 still work."""

from __future__ import annotations

import pytest

from rollforge.policies import RollingSink


def test_revisited_is_taken_for_moves_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    class Old(RollingSink):
        def revisited(self, start: int, block: int) -> frozenset[int]:
            return super().revisited(start, block) - {0}

    class Older(Old):
        pass

    assert [record.getMessage() for record in caplog.records] == [
        "Old.revisited is called moves now; the old name works until rollforge 0.3."
    ]
    assert Older(2, 1).moves(60, 3) == RollingSink(2, 1).moves(60, 3) - {0} == Older(2, 1).revisited(60, 3)
    assert RollingSink(2, 1).revisited(60, 3) == RollingSink(2, 1).moves(60, 3)
