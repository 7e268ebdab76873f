"""The commands around ``predict``: help without torch, bench, test and compare."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rollforge.cli import COMMANDS, main

CURVES = ["presence", "colour_error", "background_error", "skyline", "sharpness", "motion", "repetition"]
QUIET = """
import sys
from rollforge.cli import main
try:
    code = main({arguments})
except SystemExit as stop:
    code = stop.code or 0
heavy = [name for name in ("torch", "lightning", "jsonargparse", "numpy") if name in sys.modules]
assert not heavy, heavy
sys.exit(code)
"""


def rows(text: str) -> list[list[str]]:
    """The cells of the first Markdown table in a text, its rule left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in [lines[0], *lines[2:]]]


@pytest.fixture
def measured(tiny: Any) -> Any:
    """The tiny config with the world's metric, and enough video for one horizon and five."""
    tiny.config["model"]["metrics"] = [{"class_path": "WorldTruth"}]
    tiny.config["data"] = {"prompts": ["a red ball over snow at day", "a blue box over sand at night"], "seconds": 3.75}
    return tiny


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--help"], 0), ([], 0), (["--version"], 0), (["predct"], 2), (["plugins", "--help"], 0)]
)
def test_help_and_most_errors_answer_without_importing_torch(
    process: Callable[..., Any], arguments: list[str], code: int
) -> None:
    done = process("-c", QUIET.format(arguments=arguments))
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_help_names_every_command_and_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name, (_, purpose) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(purpose)}$", text, re.MULTILINE)
    assert main([]) == 0
    assert capsys.readouterr().out == text


def test_bench_prints_one_row_for_each_policy(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--model", "parity", "--policy", "Window", "--policy", "AttentionSink"]
    assert main(["bench", *chosen, "--blocks", "10", "--threads", "1"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^rollforge [\d.]+, torch [\d.]+\S*, .*, 1 threads$", text, re.MULTILINE)
    head, *body = rows(text)
    assert head[:3] == ["model", "policy", "blocks timed"]
    assert [row[:3] for row in body] == [["parity", "Window", "2 of 10"], ["parity", "AttentionSink", "2 of 10"]]
    for row in body:
        first, median, ratio, fps, peak = (float(row[n]) for n in (3, 4, 5, 7, 8))
        assert row[6] == "-"  # no codec, nothing to decode
        assert min(first, median, ratio, peak) > 0
        assert fps == pytest.approx(3000 / median, rel=0.05)


def test_bench_of_pocket_counts_decoding(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--model", "pocket", "--policy", "Window", "--blocks", "2", "--threads", "1"]) == 0
    _, row = rows(capsys.readouterr().out)
    assert row[:3] == ["pocket", "Window", "1 of 2"]
    assert float(row[6]) > 0
    assert float(row[7]) == pytest.approx(3000 / (float(row[4]) + float(row[6])), rel=0.05)


def test_test_measures_at_multiples_of_the_horizon_beside_the_truth(
    measured: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measured.run("test", "--data.rollout_batch", "2") == 0
    printed = capsys.readouterr().out
    head, *body = rows(printed)
    assert head == ["policy", "horizon", *CURVES]
    assert [row[:2] for row in body] == [["(true world)", "1x"], ["RollingSink", "1x"], ["RollingSink", "5x"]]
    kept = json.loads((measured.out / "metrics.json").read_text())
    assert len(kept) == 6
    for row in body:
        group = [one for one in kept if one["policy"] == row[0] and f"{one['x']}x" == row[1]]
        assert {one["prompt"] for one in group} == set(measured.config["data"]["prompts"])
        for name, cell in zip(CURVES, row[2:], strict=True):
            mean, _, error = cell.partition(" ± ")
            values = [one[name] for one in group]
            assert all(math.isfinite(value) for value in values)
            assert float(mean) == pytest.approx(sum(values) / 2, abs=1e-3)
            assert float(error) == pytest.approx(abs(values[0] - values[1]) / 2, abs=1e-3)
    assert (measured.out / "sheet.png").stat().st_size > 1000
    assert str(measured.out / "sheet.png") in printed
    assert str(measured.out / "metrics.json") in printed
    assert all(row["presence"] > 0.8 for row in kept if row["policy"] == "(true world)")


def test_the_figures_do_not_depend_on_what_is_rolled_together(measured: Any) -> None:
    figures = []
    for size in ("1", "2"):
        assert measured.run("test", "--data.rollout_batch", size) == 0
        kept = json.loads((measured.out / "metrics.json").read_text())
        figures.append(sorted(kept, key=lambda row: (row["policy"], row["x"], row["prompt"])))
    for one, other in zip(*figures, strict=True):
        assert one == pytest.approx(other, abs=2e-3)


def test_test_says_how_long_a_video_must_be(measured: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert measured.run("test", "--data.seconds", "0.5") == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert "data.seconds gives 4 latent frames, less than one trained horizon (6)" in told


def test_compare_measures_each_policy_under_the_same_prompts_and_prints_one_table(
    measured: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    vary = ["--vary", "model.policy=Window,RollingSink"]
    config: Path = measured.write()
    assert main(["compare", "--config", str(config), *vary, "--output_dir", str(measured.out)]) == 0
    printed = capsys.readouterr().out
    table = printed[printed.rindex("| policy |") :]
    head, *body = rows(table)
    assert head == ["policy", "horizon", *CURVES]
    assert sorted(row[:2] for row in body) == sorted(
        [["(true world)", "1x"], *([policy, x] for policy in ("Window", "RollingSink") for x in ("1x", "5x"))]
    )
    kept = (measured.out / "table.md").read_text()
    assert rows(kept) == rows(table)
    figures = {tuple(row[:2]): row[2:] for row in body}
    assert figures["Window", "1x"] == figures["RollingSink", "1x"]  # the same context up to the horizon
    assert figures["Window", "5x"] != figures["RollingSink", "5x"]
    for policy in ("Window", "RollingSink"):
        assert (measured.out / policy / "sheet.png").is_file()
        assert str(measured.out / policy / "sheet.png") in printed
