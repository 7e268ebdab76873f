"""The commands around ``predict``: help without torch, bench and compare."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rollforge.cli import main
from rollforge.commands import COMMANDS
from rollforge.files.locking import locked

CURVES = [
    *("presence", "colour_error", "background_error", "tint", "skyline", "landscape"),
    *("sharpness", "motion", "repetition"),
]
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
    for name, purpose in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(purpose)}$", text, re.MULTILINE)
    assert main([]) == 0
    assert capsys.readouterr().out == text


def test_bench_prints_one_row_for_each_policy(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    chosen = [
        "--model",
        "parity",
        "--policy",
        "Window",
        "--policy",
        "AttentionSink",
        "--json",
        str(tmp_path / "b.json"),
    ]
    assert main(["bench", *chosen, "--blocks", "10", "--threads", "1"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^rollforge [\d.]+, torch [\d.]+\S*, .*, 1 threads$", text, re.MULTILINE)
    written = json.loads((tmp_path / "b.json").read_text())
    for run in written["runs"]:
        assert 0 < run["floor"] < run["denoise"] < run["median"] * 1.5
        assert run["median"] <= run["p90"]
        assert run["denoise"] > run["commit"] > 0
        # 5 passes of 2 layers over 72 tokens: 14 matrices of 96 x 96, attention to 504 tokens and 16 of the text. The
        # last layer of the commit pass has 3 matrices and no attention.
        linear, attended = 2 * 72 * (9 * 14 + 3) * 96**2, 4 * 72 * 9 * (504 + 16) * 96
        assert run["tflop"] * 1e12 == pytest.approx(linear + attended, rel=0.05)
    head, *body = rows(text)[:3]
    assert head[:3] == ["model", "policy", "blocks timed"]
    assert [row[:3] for row in body] == [["parity", "Window", "2 of 10"], ["parity", "AttentionSink", "2 of 10"]]
    for row in body:
        first, median, ratio, fps, peak = (float(row[n]) for n in (3, 4, 5, 7, 8))
        assert row[6] == "-"  # no codec, nothing to decode
        assert min(first, median, ratio, peak) > 0
        assert fps == pytest.approx(3000 / median, rel=0.05)


def test_bench_compiles_one_graph_for_each_kind_of_pass(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a backend that compiles nothing; it starts with a full window, so that there are no others."""
    plain = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, mode: plain(self, backend="eager"))
    chosen = ["--model", "parity", "--policy", "RollingSink", "--compile", "default", "--threads", "1"]
    assert main(["bench", *chosen, "--blocks", "4", "--json", str(tmp_path / "b.json")]) == 0
    (made,) = json.loads((tmp_path / "b.json").read_text())["runs"]
    assert (made["graphs"], made["graph_breaks"], made["compiled"], made["timed"]) == (2, 0, "default", 2)
    linear, attended = 2 * 72 * (9 * 14 + 3) * 96**2, 4 * 72 * 9 * (504 + 16) * 96
    assert made["tflop"] * 1e12 == pytest.approx(linear + attended, rel=0.05)  # of a full window
    torch._dynamo.reset()


def test_bench_of_pocket_counts_decoding(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--model", "pocket", "--policy", "Window", "--blocks", "2", "--full_window", "--threads", "1"]
    assert main(["bench", *chosen]) == 0
    row = rows(capsys.readouterr().out)[1]
    assert row[:3] == ["pocket", "Window", "1 of 2"]
    assert float(row[6]) > 0
    assert float(row[7]) == pytest.approx(3000 / (float(row[4]) + float(row[6])), rel=0.05)


def test_compare_goes_on_after_a_kill_and_reports_each_point_under_the_same_prompts(
    measured: Any,
) -> None:
    long = ["--data.seconds", "6"]  # so that the signal comes well before the end, also where this process is starved
    same = ["--model.policy.init_args.context_blocks", "2"]  # of both: it comes after the class that it refines
    vary = ["--vary", "model.policy=Window,RollingSink", "--data.rollout_batch_size", "2", *same, *long]
    killed = measured.start("compare", *vary)
    while killed.poll() is None and not list(measured.out.glob("runs/RollingSink-*/manifest.json")):
        time.sleep(0.05)
    killed.terminate()
    _, stderr = killed.communicate(timeout=120)
    assert killed.returncode == 143, stderr
    assert stderr.splitlines()[-1] == "Stopped by SIGTERM; the same command continues from here."
    assert not (measured.out / "report.html").exists()

    again = measured.start("compare", *vary)
    printed, stderr = again.communicate(timeout=300)
    assert again.returncode == 0, stderr
    assert re.match(
        r"Window: reused, 12.0 of 12.0 s \(\S+/runs/Window-[0-9a-f]{8}\)\nRollingSink: running, ", printed
    ), printed
    log = next(measured.out.glob("runs/RollingSink-*/test.log")).read_text()
    assert re.findall(r"^\$ rollforge test .*?( --resume)?$", log, re.MULTILINE) == ["", " --resume"]
    figures = {(row[0], row[1]): row[2:] for row in rows(printed)[1:]}
    for curve in CURVES:
        window, rolling = figures[curve, "Window"], figures[curve, "RollingSink"]
        assert window[0] == rolling[0]  # the same context up to the horizon
        assert (curve, "(true world)") in figures
    assert any(figures[curve, "Window"] != figures[curve, "RollingSink"] for curve in CURVES)
    text = (measured.out / "table.md").read_text()
    assert "presence (higher is better)" in text
    assert "sharpness (no level is better than another" in text
    page = (measured.out / "report.html").read_bytes()
    videos = sum(path.stat().st_size for path in measured.out.glob("runs/*/*.mp4"))
    assert videos < len(page) < videos + 5_000_000


def test_two_comparisons_do_not_work_in_one_folder(measured: Any, capsys: pytest.CaptureFixture[str]) -> None:
    measured.out.mkdir()
    with locked(measured.out):
        assert measured.run("compare", "--vary", "model.policy=Window,RollingSink") == 2
    assert f"Another run is using {measured.out}" in capsys.readouterr().err
    assert not (measured.out / "runs").exists()


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        (["model.policy=Window,RollngSink"], "The point model.policy=RollngSink cannot be run: There is no part"),
        (["model.policy.init_args.sink_blocks=1,9"], "sink_blocks=9 cannot be run: RollingSink got sink_blocks=9"),
        (["model.policy=RollingSink,Window", "model.policy.init_args.sink_blocks=0"], "model.policy=Window, "),
        (["data.seconds=3,-3"], "The point data.seconds=-3 cannot be run"),
        (["data.seconds=3,3.0"], "The points data.seconds=3 and data.seconds=3.0 are the same config"),
    ],
)
def test_compare_says_which_point_cannot_be_before_any_is_run(
    measured: Any, error_line: Callable[[int], str], vary: list[str], message: str
) -> None:
    given = [part for each in vary for part in ("--vary", each)]
    assert message in error_line(measured.run("compare", *given))
    assert not measured.out.exists()


def test_compare_needs_a_config(error_line: Callable[[int], str]) -> None:
    assert "compare needs --config FILE" in error_line(main(["compare", "--vary", "data.seed=1,2"]))
