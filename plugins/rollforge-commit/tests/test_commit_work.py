"""What commit passes cost at the size of Wan 2.1 1.3B, counted."""

from __future__ import annotations

import pytest
import torch
from rollforge_commit import CommitRecent, WithCommit
from rollforge_commit.work import work_of_block

from rollforge.backbones.wan.network import Wan
from rollforge.policies import RollingSink
from rollforge.samplers import FewStep


def test_six_frames_save_a_seventh_of_the_attention_and_a_tenth_of_all_work() -> None:
    with torch.device("meta"):
        network = Wan()
    plain = work_of_block(network, RollingSink(6, 5), FewStep())
    short = work_of_block(network, CommitRecent(RollingSink(6, 5), 6), FewStep())
    without = work_of_block(network, RollingSink(6, 5), WithCommit(FewStep()))
    # Of one pass of a block at a window of 21 frames: 11.70 of linear layers, .44 to the text, 28.26 of self-attention.
    # The commit pass leaves out the last of 30 layers, but for its keys and values.
    part, width = 29 / 30, 1536
    linear = 11.70 * part + 2 * 4680 * 3 * width**2 / 1e12
    assert plain.attention / 1e12 == pytest.approx((4 + part) * 28.26, rel=1e-3)
    assert plain.other / 1e12 == pytest.approx(4 * 11.70 + linear + (4 + part) * 0.44, rel=1e-3)
    assert short.attention / 1e12 == pytest.approx((4 + part * 6 / 21) * 28.26, rel=1e-3)
    assert short.attention / plain.attention == pytest.approx(1 - 1 / 7, abs=5e-3)
    assert short.whole / plain.whole == pytest.approx(0.90, abs=4e-3)
    assert without.whole / plain.whole == pytest.approx(0.80, abs=6e-3)
