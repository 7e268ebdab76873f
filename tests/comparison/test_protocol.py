"""The protocol's tables: their rows, and the identity of each run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rollforge.comparison.page.build import build
from rollforge.comparison.protocol import Protocol
from rollforge.comparison.run_result import Comparison, RunResult
from rollforge.comparison.tables import markdown, summary
from rollforge.data.prompt_suite import PromptSuite
from rollforge.errors import UserError
from rollforge.metrics.thumbnails import SUFFIX, Thumbnails, read

PROMPTS = [f"prompt {n}" for n in range(6)]
SECONDS = 12
SCENES = np.random.default_rng(1).integers(0, 256, (2, len(PROMPTS), 16, 16, 3)).astype(np.uint8)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def point(folder: Path, label: str, late: float, twin: bool = False) -> RunResult:
    """A run of two seeds whose videos keep their opening to ``late``, the rest being one picture, and slow down."""
    own = folder / label
    own.mkdir()
    videos: dict[Any, Any] = {}
    for seed in (0, 1):
        for n, prompt in enumerate(PROMPTS):
            sample = n + seed * len(PROMPTS)
            ratio = 0.5 if late < 1 and n < 3 else 1.0
            motion = {
                "level": 0.7,
                "first_15": 1.0,
                "last_15": ratio,
                "ratio_15": ratio,
                "first_5s": 1.0,
                "last_5s": ratio,
            }
            motion |= {"in_clip": 0.1, "clip_to_clip": 0.2, "worst_clip": 0.3 + 0.01 * n + late}
            videos[sample, prompt] = {
                "file": f"{sample:03d}.mp4", "prompt": prompt, "sample": sample, "seed": seed, "policy": "Window",
                "noise": "PerturbedNoise" if twin else "IndependentNoise", "md5": f"{sample:032x}", "commit": COMMIT,
                "read": {"blocks": 40, "moved": 33} if label == "Sink" else {"blocks": 40}, "marks": {},
                "summary": {"flow_top": motion}, "figures": {"dynamic_degree": float(n % 2)},
            }  # fmt: skip
            share = np.linspace(1, late, SECONDS)[:, None, None, None]
            pictures = np.rint(SCENES[seed, n] * share + SCENES[seed, 0] * (1 - share)).astype(np.uint8)
            if twin and n < 3:
                pictures[7:] = 255 - pictures[7:]
            kept = Thumbnails(1.0)
            kept.kept = torch.from_numpy(pictures)
            kept.write(own / f"{sample:03d}{SUFFIX}")
    noise = {"class_path": "rollforge.noise.PerturbedNoise", "init_args": {"base": None, "strength": 0.1}}
    config = {"model": {"policy": "Window", "noise": noise if twin else None}, "data": {"seconds": SECONDS, "seed": 0}}
    return RunResult(label, own, config, {}, {}, videos)


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    return Comparison([point(tmp_path, "Sink", 1.0), point(tmp_path, "Twin", 1.0, True), point(tmp_path, "Falls", 0.0)])


def cells(text: str, title: str) -> dict[str, dict[str, str]]:
    """A table by its rows' first cells, then by its head."""
    lines, *_ = re.findall(rf"^{re.escape(title)}[^\n]*\n\n((?:\|.*\n?)+)", text, re.MULTILINE)
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines.splitlines()]
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


def test_every_dimension_has_six_figures_beside_the_run_and_paired_differences(comparison: Comparison) -> None:
    text = markdown(comparison, ["Sink"])
    table = cells(text, "flow_top")
    assert table["Falls"]["worst segment"] == "0.325 [0.312, 0.338]"
    assert table["Falls"]["run"] == Protocol(comparison).identities["Falls"].frames[:8]
    assert table["Falls minus Sink"]["worst segment"] == "-1 [-1, -1]\\*"
    assert table["Falls minus Sink"]["in-clip"] == "+0 [0, 0]"
    assert (table["Sink"]["in-clip"], table["Sink"]["clip-to-clip"]) == ("0.1 [0.1, 0.1]", "0.2 [0.2, 0.2]")
    assert "Twin minus Twin" not in table
    whole = cells(text, "Whole video")
    drawn = np.random.default_rng(0).integers(6, size=(10_000, 6))
    low, high = np.quantile((np.arange(6) % 2)[drawn].mean(axis=1), [0.025, 0.975])
    assert whole["Sink"]["dynamic_degree"] == f"0.5 [{low:.3g}, {high:.3g}]"


def test_the_diagnostics_have_their_known_answers(comparison: Comparison) -> None:
    text = summary(comparison, ["Sink"])
    motion = cells(text, "Motion (flow_top)")
    assert motion["Falls"]["share below 0.85 of its start"].startswith("0.5 [")
    assert motion["Sink"]["share below 0.85 of its start"] == "0 [0, 0]"
    assert motion["Falls"]["last 15 %"].startswith("0.75 [")
    (name,) = [key for key in cells(text, "Identity")["Sink"] if key.startswith("likeness")]
    identity = {label: float(row[name].split()[0]) for label, row in cells(text, "Identity").items()}
    assert identity["Sink"] > 0.9
    assert identity["Falls"] < 0.5
    assert "\\*" in cells(text, "Identity")["Falls minus Sink"][name]
    prompts = cells(text, "Different prompts")
    assert prompts["Sink"]["prompt retrieved, last 5 s"] == "1 [1, 1]"
    assert float(prompts["Falls"]["distance, last 5 s"].split()[0]) < float(
        prompts["Falls"]["distance, first 5 s"].split()[0]
    )
    assert re.search(r"retrieved no more: Sink more than 11; Twin 7; Falls \d+", text)
    twin = cells(text, "Twin runs")
    assert twin.keys() == {"Twin", "Twin minus Sink"}
    assert twin["Twin"]["share that parts"].startswith("0.5 [")
    assert twin["Twin"]["second at which those part"] == "7 [7, 7]"


def test_the_runs_are_identified_by_frames_noise_commit_policy_and_counters(comparison: Comparison) -> None:
    text = summary(comparison)
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if COMMIT[:12] in line}
    assert lines.keys() == {"Sink", "Twin", "Falls"}
    assert "IndependentNoise, seed 0, 1, samples 0 to 11" in lines["Sink"]
    assert "moved 33 of 40" in lines["Sink"]
    assert "none of 40" in lines["Falls"]
    assert "PerturbedNoise" in lines["Twin"]
    changed = comparison.measured[0].videos[0, PROMPTS[0]]
    before = Protocol(comparison).runs["Sink"]
    changed["md5"] = "f" * 32
    assert Protocol(comparison).runs["Sink"] != before
    changed["md5"] = None
    assert Protocol(comparison).runs["Sink"] == "-"


def test_the_page_shows_the_same(finished: Callable[..., Any]) -> None:
    from rollforge.comparison.run_result import gather

    runs = finished(["a red ball over snow at day", "another"], policies=2)
    text = build(gather(runs), runs[0].runs.parent, [], [], ["Window"]).decode("ascii", "replace")
    assert "What was run, and every dimension" in text
    assert "AttentionSink minus Window" in text
    assert "worst segment" in text


SUITES = {
    "info.json": '[{"prompt_en": "a cat", "dimension": ["color"]}, {"prompt_en": "a dog", "dimension": ["scene"]}]',
    "movies.txt": "a cat\na dog\n",
    "swapped.txt": "a dog\na cat\n",
}


def test_a_suite_is_known_by_its_file_its_count_and_its_order(tmp_path: Path) -> None:
    from hashlib import sha256

    for name, text in SUITES.items():
        (tmp_path / name).write_text(text)
    info, movies, swapped = (PromptSuite.of(str(tmp_path / name)) for name in SUITES)
    assert movies.sha256 == sha256(SUITES["movies.txt"].encode()).hexdigest()
    assert info.sha256 != movies.sha256
    assert (info.order, info.count) == (movies.order, 2)
    assert swapped.order != movies.order
    assert swapped.members == movies.members
    first = PromptSuite.of(str(tmp_path / "movies.txt"), 1)
    assert (first.count, first.held, first.order) == (1, 2, PromptSuite.of(["a cat"]).order)
    assert f"movies.txt, sha256 {movies.sha256}; 1 of 2 prompts" in str(first)
    assert str(PromptSuite.of(["a cat"])).startswith("stated in the config; 1 prompts")


def test_damaged_thumbnails_are_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / f"a{SUFFIX}"
    file.write_bytes(b"no array")
    with pytest.raises(UserError, match="is damaged"):
        read(file)
    np.save(file, np.zeros((3, 4)))
    with pytest.raises(UserError, match="not thumbnails"):
        read(file)
