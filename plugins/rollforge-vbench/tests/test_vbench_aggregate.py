"""The aggregation, against published figures and figures worked out by hand.

Public rows of single dimensions: Table II of VBench++ (arXiv 2411.13503v1), read in a stored copy of the paper's HTML:
ModelScope and LaVie (semantic part), VideoCrafter-2.0 (quality part). Their other halves and the three leaderboard
scores next to them were not in reach when this was written and are quoted from memory; that nine scores come out to
the last digit is what speaks for them. No public row of single dimensions was at hand for Self Forcing.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rollforge_vbench.dimensions import ALL, CUSTOM, QUALITY, SEMANTIC, aggregate, table
from rollforge_vbench.result import read_raw

from rollforge.errors import UserError

PUBLISHED = {  # the seven of quality, the nine of semantic, in the order of ALL; then quality, semantic, total
    "ModelScope": (
        [89.87, 95.29, 98.28, 95.79, 66.39, 52.06, 58.57],
        [82.25, 38.98, 92.40, 81.72, 33.68, 39.26, 23.39, 25.37, 25.67],
        (78.05, 66.54, 75.75),
    ),
    "LaVie": (
        [91.41, 97.47, 98.30, 96.38, 49.72, 54.94, 61.90],
        [91.82, 33.32, 96.80, 86.39, 34.09, 52.69, 23.56, 25.93, 26.41],
        (78.78, 70.31, 77.08),
    ),
    "VideoCrafter-2.0": (
        [96.85, 98.22, 98.41, 97.73, 42.50, 63.13, 67.22],
        [92.55, 40.66, 95.00, 92.92, 35.86, 55.29, 25.13, 25.84, 28.23],
        (82.20, 73.42, 80.44),
    ),
}


def vector(*values: float) -> dict[str, float]:
    return {name: value / 100 for name, value in zip(ALL, values, strict=True)}


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_rows_give_their_published_scores(model: str) -> None:
    quality, semantic, scores = PUBLISHED[model]
    made = aggregate(vector(*quality, *semantic)).scores
    got = tuple(100 * made[name] for name in ("quality", "semantic", "total"))
    assert got == pytest.approx(scores, abs=0.0075)  # the rows are rounded to 0.01 themselves


@pytest.mark.parametrize(
    ("quality", "semantic", "total"),
    [(85.07, 81.28, 84.31), (85.25, 80.30, 84.26)],  # Self Forcing, chunk-wise and frame-wise (methods.md)
)
def test_published_totals_are_four_parts_quality_and_one_semantic(
    quality: float, semantic: float, total: float
) -> None:
    raw = {name: low + (high - low) * quality / 100 for name, (low, high, _) in QUALITY.items()}
    raw |= {name: low + (high - low) * semantic / 100 for name, (low, high, _) in SEMANTIC.items()}
    made = aggregate(raw).scores
    assert 100 * made["quality"] == pytest.approx(quality)
    assert 100 * made["semantic"] == pytest.approx(semantic)
    assert 100 * made["total"] == pytest.approx(total, abs=0.006)


def test_figures_worked_out_by_hand() -> None:
    lowest = {name: low for name, (low, _, _) in ALL.items()}
    assert aggregate(lowest).scores["total"] == 0
    assert aggregate({name: high for name, (_, high, _) in ALL.items()}).scores["total"] == pytest.approx(1)
    one = aggregate(lowest | {"dynamic_degree": 1.0}).scores
    assert one["quality"] == pytest.approx(0.5 / 6.5)
    assert one["total"] == pytest.approx(4 * 0.5 / 6.5 / 5)
    other = aggregate(lowest | {"scene": 0.4111}).scores
    assert other["semantic"] == pytest.approx(0.5 / 9)
    assert other["total"] == pytest.approx(0.5 / 9 / 5)
    smooth = aggregate(lowest | {"motion_smoothness": 1.0})
    assert smooth.normalised["motion_smoothness"] == pytest.approx(0.294 / 0.2915)  # not clipped, as in VBench's script
    assert aggregate(dict.fromkeys(ALL, 0.25)).scores["raw_mean"] == 0.25


def test_a_missing_dimension_is_refused_by_name_and_never_counts_as_0() -> None:
    raw = vector(*range(16, 32))
    del raw["scene"], raw["color"]
    with pytest.raises(UserError, match=r"2 of VBench's 16 dimensions are missing \(color, scene\).*--partial"):
        aggregate(raw)
    made = aggregate(raw, partial=True)
    assert set(made.scores) == {"quality", "partial_semantic"}
    assert made.missing == ("color", "scene")
    assert "| color | missing |" in table(made)
    assert "not comparable" in table(made)
    full = aggregate(raw | {"scene": 0.0, "color": 0.0}).scores["semantic"]
    assert made.scores["partial_semantic"] > full


def test_only_custom_dimensions_give_no_quality_score() -> None:
    made = aggregate(dict.fromkeys(CUSTOM, 0.9), partial=True)
    assert set(made.scores) == {"partial_quality"}


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"imaging_quality": 63.1}, "imaging_quality is 63.1.*not percentages"),
        ({"imaging_quality": float("nan")}, "imaging_quality is nan"),
        ({"scenes": 0.1}, "no dimension 'scenes'.*Did you mean 'scene'"),
    ],
)
def test_what_is_no_score_is_refused(raw: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        aggregate(raw, partial=True)


def test_files_of_vbench_and_plain_ones_are_read_together(tmp_path: Path) -> None:
    one, two = tmp_path / "a_eval_results.json", tmp_path / "b.json"
    one.write_text(json.dumps({"subject_consistency": [0.9, [{"video_path": "a.mp4", "video_results": 0.9}]]}))
    two.write_text(json.dumps({"scene": 0.4, "appearance style": 0.2}))
    assert read_raw([one, two]) == {"subject_consistency": 0.9, "scene": 0.4, "appearance_style": 0.2}
    two.write_text(json.dumps({"subject_consistency": 0.8}))
    with pytest.raises(UserError, match="name one of them"):
        read_raw([one, two])
    two.write_text(json.dumps({"complete": False, "scores": {"scene": 0.4}}))
    with pytest.raises(UserError, match="failed scoring"):
        read_raw([two])
