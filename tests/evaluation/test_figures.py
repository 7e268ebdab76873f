"""Figures of measured videos: marks, intervals over prompts, tables, and JSON that every parser reads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rollforge.errors import UserError
from rollforge.evaluation.evaluation import Evaluation, plain
from rollforge.evaluation.horizon import Horizon, windows
from rollforge.evaluation.plots import draw, grid, save
from rollforge.evaluation.prompts import band, marks, over_prompts
from rollforge.evaluation.table import TRUE_WORLD, shown, table
from rollforge.evaluation.video_result import POINTS, DownsampledCurve, VideoResult
from rollforge.metrics.base import Blocks
from rollforge.metrics.interval import Interval, interval
from rollforge.metrics.summary import summarise
from rollforge.report.curve import LossCurve

WAN = Horizon(16.0, Blocks(81, 84), Blocks(21, 21))
NAN = float("nan")


def csv(path: Path, fps: float, **curves: Any) -> Path:
    rows = enumerate(zip(*curves.values(), strict=True))
    lines = [",".join(["frame", "seconds", *curves])]
    lines += [",".join([str(n), f"{n / fps:.6g}", *map(str, row)]) for n, row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def measured(tmp_path: Path) -> Any:
    """Measures a video of curves."""

    def measure(prompt: str = "a dog", label: str = "Window", ruler: Horizon = WAN, **curves: Any) -> VideoResult:
        name = f"{len(list(tmp_path.glob('*.curves.csv'))):03d}"
        entry = {"file": f"{name}.mp4", "prompt": prompt, "fps": ruler.fps, "seed": 0, "sample": 0}
        video = VideoResult(entry, label, csv(tmp_path / f"{name}.curves.csv", ruler.fps, **curves))
        video.read(ruler)
        return video

    return measure


def test_windows_end_at_multiples_of_the_horizon() -> None:
    assert windows(WAN.frames, 1000, (1, 5, 20)) == {1: range(81), 5: range(333, 417)}
    assert windows(Blocks(21, 21), 420, (1, 5, 20, 60)) == {1: range(21), 5: range(84, 105), 20: range(399, 420)}
    assert windows(Blocks(21, 21), 20) == {}
    assert Horizon.of_seconds(5, 7.5).frames == Blocks(38, 38)


def test_marks_are_means_over_their_windows(measured: Any, tmp_path: Path) -> None:
    curve = np.random.default_rng(0).random(450)
    curve[340:360] = NAN
    video = measured(light=curve)
    latents = np.random.default_rng(1).random(110)
    csv(tmp_path / "000.latent_metrics.csv", 4.0, spread=latents)
    video.read(WAN)
    assert video.marks.keys() == {1, 5}
    assert video.marks[1] == pytest.approx({"light": curve[:81].mean(), "spread": latents[:21].mean()})
    assert video.marks[5]["light"] == pytest.approx(np.nanmean(curve[333:417]))
    assert video.marks[5]["spread"] == pytest.approx(latents[84:105].mean())
    expected = summarise({"light": curve}, 16.0, 81 / 16) | summarise({"spread": latents}, 4.0, 21 / 4)
    assert set(expected) == set(video.summary)
    for name, figures in expected.items():
        assert video.summary[name] == pytest.approx(figures, nan_ok=True)


def test_intervals_are_those_of_a_direct_bootstrap_over_prompts(measured: Any) -> None:
    levels = np.random.default_rng(0).normal(5, 1, 12)
    videos = [measured(f"prompt {n}", light=np.full(100, level)).to_dict() for n, level in enumerate(levels)]
    found = over_prompts(videos)["light"]["level"]
    draws = np.random.default_rng(7)
    means = [draws.choice(levels, len(levels)).mean() for _ in range(20_000)]
    assert found.mean == pytest.approx(levels.mean())
    assert (found.low, found.high) == pytest.approx(np.quantile(means, (0.025, 0.975)), abs=0.03)
    assert marks(videos)[1]["light"] == pytest.approx(found)
    assert found == pytest.approx(interval(levels))


def test_each_prompt_has_one_vote(measured: Any) -> None:
    videos = [measured("a", x=np.full(90, 1.0)), measured("a", x=np.full(90, 3.0)), measured("b", x=np.full(90, 6.0))]
    entries = [video.to_dict() for video in videos]
    assert over_prompts(entries)["x"]["level"][::3] == (4.0, 2)
    assert marks(entries)[1]["x"][::3] == (4.0, 2)


def test_the_band_is_the_interval_of_each_point() -> None:
    values = np.random.default_rng(0).normal(0, 1, (10, 3))
    values[:9, 1], values[:, 2] = NAN, NAN
    mean, low, high = band(values, draws=20_000)
    direct = interval(values[:, 0], draws=20_000)
    assert (mean[0], low[0], high[0]) == pytest.approx(direct[:3], abs=0.03)
    assert mean[1] == values[9, 1]
    assert np.isnan([low[1], high[1], mean[2], low[2]]).all()


def test_curves_are_thinned_and_meet_at_the_same_times(measured: Any) -> None:
    thin = DownsampledCurve.of(np.arange(57_600.0), 16.0)
    assert len(thin.values) <= POINTS
    assert thin.values[0] == pytest.approx(28.5)
    assert thin.seconds[1] == pytest.approx(58 / 16)
    short = measured("a", ruler=Horizon.of_seconds(5, 8.0), x=np.arange(80.0))
    long = measured("b", ruler=Horizon.of_seconds(5, 24.0), x=np.full(480, 7.0))
    seconds, values = grid([short, long], "x", 40)
    assert values.shape == (2, 40)
    assert seconds[-1] == pytest.approx(19.5)
    assert np.isnan(values[0, 20:]).all()
    assert values[0, :2] == pytest.approx([1.5, 5.5])
    assert (values[1] == 7).all()


def test_the_tables_hold_no_mean_without_its_interval(measured: Any) -> None:
    videos = {
        label: [
            measured(f"{n}", label, light=np.random.default_rng(n).random(500), still=np.zeros(500)) for n in range(3)
        ]
        for label in ("Window", "RollingSink")
    }
    truth = over_prompts([videos["Window"][0].to_dict()])
    text = table({label: [video.to_dict() for video in own] for label, own in videos.items()}, truth)
    first, second, third = (part.splitlines() for part in text.split("\n\n"))
    assert max(map(len, text.splitlines())) <= 120
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in first]
    assert cells[0] == ["curve", "policy", "1x", "5x"]
    assert [row[:2] for row in cells[2:5]] == [["light", TRUE_WORLD], ["light", "Window"], ["light", "RollingSink"]]
    assert "first 15 %" in second[0]
    assert "slope per minute" in third[0]
    assert "worst clip" in third[0]
    number = r"-?\d+(\.\d+)?(e-?\d+)?"
    for line in (*first[2:], *second[2:], *third[2:]):
        for cell in line.strip("|").split("|")[2:]:
            assert re.fullmatch(rf"({number} \[({number}, {number}|n=1)\]|-|)", cell.strip()), cell
    alone = table({"Window": [video.to_dict() for video in videos["Window"]]})
    assert alone.splitlines()[0].split() == ["|", "curve", "|", "1x", "|", "5x", "|"]


def test_numbers_are_short_and_one_prompt_is_said() -> None:
    assert shown(Interval(0.98712, 0.97, 0.9954, 8)) == "0.987 [0.97, 0.995]"
    assert shown(Interval(4.88e-5, 0.0, 12345.0, 8)) == "4.9e-5 [0, 1.2e4]"
    assert shown(Interval(0.5, NAN, NAN, 1)) == "0.5 [n=1]"
    assert shown(Interval(NAN, NAN, NAN, 0)) == "-"


def test_the_document_is_json_for_everyone(measured: Any) -> None:
    own = [measured(f"{n}", light=np.full(40, 0.5 + n)) for n in range(2)]
    others = [measured(f"{n}", "RollingSink", light=np.full(40, 0.7)) for n in range(2)]
    own[0].entry = {**own[0].entry, "measured": {"loop_seconds": NAN}, "failed_metrics": {"Odd": "it broke"}}
    evaluation = Evaluation([*own, *others], 81 / 16, ["Light"], "Window", "abc")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    read = json.loads(json.dumps(evaluation.document()), parse_constant=refuse)
    assert read["policy"] == "Window"
    assert read["fps"] == 16
    assert read["over_prompts"]["light"]["level"]["mean"] == pytest.approx(1.0)
    assert read["over_prompts"]["light"]["level"]["values"] == 2
    assert read["others"]["RollingSink"]["light"]["level"]["mean"] == pytest.approx(0.7)
    assert read["videos"][0]["figures"] == {"loop_seconds": None}
    assert read["videos"][0]["summary"]["light"]["first_5s"] is None
    assert read["videos"][0]["marks"] == {}
    assert read["videos"][0]["curves"] == "000.curves.csv"
    assert read["videos"][0]["latents"] is None
    assert evaluation.failed == {"Odd": "it broke, first in 000.mp4"}
    assert plain({1: (float("inf"), Interval(1, NAN, NAN, 1))}) == {
        "1": [None, {"mean": 1, "low": None, "high": None, "values": 1}]
    }


def test_a_damaged_file_of_curves_is_named(measured: Any) -> None:
    video = measured(light=np.zeros(3))
    video.curves.write_text("frame,seconds,light\n0,0,bright\n")
    with pytest.raises(UserError, match=r"000\.curves\.csv is damaged"):
        video.read(WAN)


def test_the_plot_has_a_panel_for_each_curve(measured: Any, tmp_path: Path) -> None:
    rare = np.where(np.arange(100) % 12 == 9, 1.0, NAN)  # once a block
    groups = {label: [measured(f"{n}", label, a=np.arange(100.0), b=rare) for n in range(2)] for label in ("P", "Q")}
    figure = draw(groups, 81 / 16)
    assert figure is not None
    first, second = figure.axes
    assert (first.get_title(), second.get_title()) == ("a", "b")
    assert [line.get_label() for line in first.lines[:2]] == ["P", "Q"]
    assert first.lines[-1].get_xdata()[0] == pytest.approx(81 / 16)
    assert len(second.lines[0].get_xdata()) == 8
    save(figure, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000
    assert draw({"P": []}, 5.0) is None


@pytest.mark.parametrize("name", ["costs $5 and $6", "$\\frac{$", "_hidden", "a\x1b[2Jb"])
def test_names_from_data_are_drawn_as_they_are(measured: Any, tmp_path: Path, name: str) -> None:
    values = np.random.default_rng(0).random(40)
    figure = draw({name: [measured(**{name: values})], "other": [measured(**{name: values})]}, 5.0)
    assert figure is not None
    save(figure, tmp_path / "curves.png")
    losses = LossCurve()
    losses.add({"loss " + name: 1.0})
    losses.close(1)
    save(losses.figure(), tmp_path / "loss.png")
    legend, *_ = figure.axes[0].get_legend().get_texts()
    shown = name.replace("\x1b", "\\x1b")
    assert (legend.get_text().strip(), legend.get_parse_math()) == (shown, False)
    assert figure.axes[0].get_title().strip() == shown


def test_the_losses_of_two_networks_are_drawn_apart_with_their_ratio() -> None:
    losses = LossCurve()
    for step, (name, value) in enumerate([("student", 4.0), ("critic", 2.0), ("critic", 1.0), ("student", 8.0)], 1):
        losses.add({"loss": value, f"loss_{name}": value})
        losses.close(step)
    assert [row.get("critic_to_student") for row in losses.values] == [None, 0.5, 0.25, 0.125]
    upper, lower = losses.figure().axes
    drawn = {line.get_label(): line.get_xydata().tolist() for axes in (upper, lower) for line in axes.get_lines()}
    assert drawn == {
        "loss_student": [[1, 4], [4, 8]], "loss_critic": [[2, 2], [3, 1]],
        "critic_to_student": [[2, 0.5], [3, 0.25], [4, 0.125]],
    }  # fmt: skip
