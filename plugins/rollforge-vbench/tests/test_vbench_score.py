"""The whole way, against a stand-in in an interpreter of its own, with everything that goes wrong over there."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from rollforge_vbench import driver
from rollforge_vbench.cli import main
from rollforge_vbench.dimensions import ALL, CUSTOM

ROOT = Path(__file__).parents[3]


@pytest.fixture
def failing(vbench_python: Path, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Scores where that must fail; answers the sentence."""

    def fail(python: Path | str = vbench_python, *more: str) -> str:
        out = tmp_path / "scores.json"
        line = ["score", "--videos", str(run_folder), "--vbench.python", str(python), "--out", str(out), *more]
        assert main(line) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.count("\n") == 1
        assert printed.err.startswith("rollforge-vbench: ")
        assert not out.exists()
        return printed.err

    return fail


def test_a_run_is_scored_in_another_interpreter_and_everything_is_recorded(
    command, vbench_python: Path, run_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores.json"
    done = command("score", "--videos", run_folder, "--vbench.python", vbench_python, "--long", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "| subject_consistency |" in done.stdout
    assert "partial_quality: " in done.stdout
    assert "total" not in done.stdout
    record = json.loads(out.read_text())
    assert record["complete"] is True
    assert set(record["scores"]) == set(CUSTOM)
    assert record["mode"] == "long_custom_input"
    assert record["keywords"]["dev_flag"] is True
    assert record["environment"]["vbench"] == "0.1.5"
    assert record["environment"]["numpy"] == "1.26.4"
    assert record["environment"]["vbench_commit"] is None
    assert str(vbench_python.parents[1]) in record["environment"]["vbench_path"]
    assert "--vbench.python" in record["command"]
    assert record["videos"][0]["sha256"]
    assert len(record["per_video"]["imaging_quality"]) == 6  # two clips of each
    assert record["aggregate"]["missing"] == [name for name in ALL if name not in CUSTOM]
    assert record["aggregate"]["raw"] == record["scores"]
    assert "scoring motion_smoothness" in out.with_suffix(".log").read_text()
    assert not out.with_suffix(".work").exists()
    refused = command("aggregate", out)
    assert refused.returncode == 2
    assert "10 of VBench's 16 dimensions are missing" in refused.stderr
    assert command("aggregate", out, "--partial").returncode == 0


def test_own_cuts_are_what_is_scored(vbench_python: Path, run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    line = f"score --videos {run_folder} --vbench.python {vbench_python} --long --cut --clip_seconds 1 --out {out}"
    assert main([*line.split(), "--dimensions", "imaging_quality"]) == 0
    record = json.loads(out.read_text())
    assert len(record["per_video"]["imaging_quality"]) == 3 * 5
    assert record["keywords"]["clip_length_config"].endswith("clip-lengths.yaml")


def test_the_standard_suite_says_how_much_of_it_there_is(
    vbench_python: Path, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores.json"
    line = (
        f"score --videos {run_folder} --vbench.python {vbench_python} --mode standard --out {out} --dimensions".split()
    )
    assert main([*line, "subject_consistency", "overall_consistency"]) == 0
    record = json.loads(out.read_text())
    assert len(record["per_video"]["subject_consistency"]) == 3
    assert len(record["per_video"]["overall_consistency"]) == 2
    assert record["notes"] == []
    (run_folder / "manifest.json").write_text((run_folder / "manifest.json").read_text().replace("a cat", "a cow"))
    assert main([*line, "subject_consistency", "--overwrite"]) == 2
    assert "does not have the prompt 'a cow' (1 such)" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("crash", "failed in motion_smoothness, so that motion_smoothness, .* are missing: .*CUDA out of memory"),
        ("missing", "result file holds no motion_smoothness"),
        ("nan", "score of motion_smoothness is nan"),
        ("empty", "scored motion_smoothness on no video at all"),
        ("leaves-out", "leaves out 0000-a-cat"),
        ("die", "ended with exit code 139 and left no result .*Segmentation fault"),
        ("garbage", "left a result that cannot be read"),
    ],
)
def test_whatever_breaks_there_is_one_sentence_here(broken, words, failing, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STANDIN", broken)
    assert re.search(words, failing())
    kept = tmp_path / "scores.partial.json"
    assert kept.exists() == (broken in ("crash", "missing", "nan", "empty"))
    if kept.exists():
        record = json.loads(kept.read_text())
        assert record["complete"] is False
        assert "motion_smoothness" not in record["scores"]
        assert set(record["scores"]) >= {"subject_consistency", "background_consistency"}
        assert "motion_smoothness" in record["failure"]


def test_time_that_runs_out_ends_it(failing, vbench_python: Path, monkeypatch) -> None:
    monkeypatch.setenv("STANDIN", "hang")
    assert "took longer than 0.0003 hours" in failing(vbench_python, "--vbench.hours", "0.0003")


def test_interpreters_that_are_none_are_named(failing, bare_python: Path, tmp_path: Path) -> None:
    assert "cannot be started (No such file or directory)" in failing(tmp_path / "nowhere" / "python")
    assert "cannot be started (Permission denied)" in failing(tmp_path)
    assert "left no result (its last words: none)" in failing("/bin/true")
    assert "vbench cannot be imported there (No module named 'vbench')" in failing(bare_python)


def test_numpy_2_is_refused_where_vbench_asks_for_numpy_1(failing, vbench_python: Path, pretend) -> None:
    (site,) = vbench_python.parents[1].glob("lib/python*/site-packages")
    pretend(site, "numpy", "2.4.6")
    try:
        assert "vbench 0.1.5 asks for numpy<2.0.0, and numpy 2.4.6 is installed there" in failing(vbench_python)
    finally:
        pretend(site, "numpy", "1.26.4")


def test_an_old_file_of_scores_is_no_result_of_a_new_failure(
    failing, vbench_python: Path, run_folder: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    out = tmp_path / "scores.json"
    line = ["score", "--videos", str(run_folder), "--vbench.python", str(vbench_python), "--out", str(out)]
    out.write_text("{}")
    assert main(line) == 2
    assert "exists; choose another --out" in capsys.readouterr().err
    monkeypatch.setenv("STANDIN", "crash")
    failing(vbench_python, "--overwrite")


def test_neither_the_core_nor_this_package_imports_vbench_and_the_driver_imports_nothing_of_rollforge() -> None:
    for file in [
        *(ROOT / "rollforge").rglob("*.py"),
        *(ROOT / "plugins/rollforge-vbench/rollforge_vbench").glob("*.py"),
    ]:
        names = imported(file)
        assert "vbench" not in names, file
        if ROOT / "rollforge" in file.parents:
            assert "rollforge_vbench" not in names, file
    assert not {name for name in imported(Path(driver.__file__)) if name.startswith("rollforge")}


def test_the_driver_is_valid_for_python_3_8() -> None:
    ast.parse(Path(driver.__file__).read_text(), feature_version=(3, 8))


def imported(file: Path) -> set[str]:
    """Top-level names of what a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names
