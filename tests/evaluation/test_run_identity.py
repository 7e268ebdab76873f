"""The identity of a run, by what its videos state."""

from __future__ import annotations

from rollforge.evaluation.run_identity import UNKNOWN, RunIdentity

VIDEO = {"sample": 3, "seed": 1, "noise": "IndependentNoise", "md5": "ab", "policy": "Window", "commit": "c" * 40}


def test_one_video_and_none() -> None:
    assert RunIdentity.of([VIDEO]).noise == "IndependentNoise, seed 1, sample 3"
    nothing = RunIdentity.of([])
    assert {nothing.frames, nothing.noise, nothing.commit, nothing.policy, nothing.activity} == {UNKNOWN}
