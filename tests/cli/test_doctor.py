"""``rollforge doctor``, and the memory checks around ``predict`` and ``test``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rollforge.backbones.pocket.network import Pocket
from rollforge.budget import check as checking
from rollforge.cli import main
from rollforge.registry import registry
from rollforge.video.reader import frames


@pytest.fixture
def examine(tiny: Any, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, str], str]]:
    """Runs doctor: the exit code, the verdict on each subject (the worst), and all that it said."""

    def run(*more: str, probe: str = "0.05") -> tuple[int, dict[str, str], str]:
        code = tiny.run("doctor", "--probe_seconds", probe, *more)
        text = capsys.readouterr().out
        verdicts: dict[str, str] = {}
        for line in text.splitlines():
            verdict, _, rest = line.partition(" ")
            if verdict in ("ok", "warning", "problem"):
                subject = rest.split()[0]
                verdicts[subject] = max(verdict, verdicts.get(subject, ""), key=["", "ok", "warning", "problem"].index)
        return code, verdicts, text

    return run


def test_a_config_that_works_is_told_so_line_by_line(tiny: Any, examine: Any) -> None:
    code, verdicts, text = examine()
    assert code == 0, text
    random = {"backbone": "warning", "codec": "warning"}
    fine = ("versions", "plugins", "device", "conditioner", "prompts", "memory", "encoder", "output", "time", "disk")
    assert verdicts == random | dict.fromkeys(fine, "ok")
    assert "keys and values in view" in text
    assert "1 layers of 2 heads x 16; latents are 8x8x8" in text
    assert "About " in text
    assert text.endswith("This will work, with 2 warnings.\n")
    assert not tiny.out.exists()


def test_weights_that_nobody_named_are_a_problem(tiny: Any, examine: Any) -> None:
    del tiny.config["model"]["backbone"]["init_args"]["weights"]
    code, verdicts, text = examine(probe="0")
    assert (code, verdicts["backbone"]) == (1, "problem")
    assert "Pocket has random weights; name its checkpoint" in text


def test_the_time_is_that_of_the_whole_video(tiny: Any, examine: Any) -> None:
    _, _, short = examine("--data.seconds", "30")
    _, _, long = examine("--data.seconds", "300000")
    assert " s for 1 video of 30 s" in short
    assert any(f"{unit} for 1 video" in long for unit in ("minutes", "hours", "days"))


def test_all_problems_are_reported_and_nothing_is_written(tiny: Any, examine: Any) -> None:
    tiny.config["model"]["backbone"]["init_args"]["weights"] = "nowhere.safetensors"
    tiny.config["model"]["codec"]["init_args"]["weights"] = "nowhere-else.safetensors"
    tiny.config["data"]["prompts"] = ["a dragon in the rain"]
    tiny.config["data"]["seconds"] = 10**8
    tiny.out.write_text("in the way")
    code, verdicts, text = examine()
    assert code == 1
    problems = {subject for subject, verdict in verdicts.items() if verdict == "problem"}
    assert problems == {"backbone", "codec", "conditioner", "output", "disk"}
    for words in ("nowhere.safetensors", "nowhere-else.safetensors", "'a dragon in the rain'", "is no folder"):
        assert words in text
    assert verdicts["memory"] == "ok"  # the sizes are known all the same
    assert verdicts["time"] == "warning"
    assert text.endswith("This will not work: 5 problems.\n")
    assert tiny.out.read_text() == "in the way"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_a_problem(examine: Any) -> None:
    code, verdicts, _ = examine("--trainer.accelerator", "gpu")
    assert (code, verdicts["device"]) == (1, "problem")


def test_a_budget_that_does_not_fit_is_a_problem(examine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "free_memory", lambda device: 50_000)
    code, verdicts, text = examine()
    assert (code, verdicts["memory"], verdicts["time"]) == (1, "problem", "warning")
    assert "too much" in text
    assert "A rollout does not fit." in text


def test_plugins_that_fail_are_named(examine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry(), "failures", ["wobble 1.0: the plugin 'wobble' was skipped (ImportError: no)."])
    code, verdicts, text = examine(probe="0")
    assert (code, verdicts["plugins"]) == (0, "warning")
    assert "wobble 1.0: the plugin 'wobble' was skipped" in text


def test_videos_of_another_config_are_a_problem(tiny: Any, examine: Any) -> None:
    tiny.out.mkdir()
    (tiny.out / "manifest.json").write_text(json.dumps({"config_hash": "other", "videos": []}))
    code, verdicts, text = examine(probe="0")
    assert (code, verdicts["output"]) == (1, "problem")
    assert "holds videos of another config" in text
    assert [path.name for path in tiny.out.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--data.secnods", "3"], "Did you mean"),
        (["--model.policy.init_args.sink_blocks", "7"], "lower sink_blocks to 2"),
        (["--data.seconds", "0"], "data.seconds must be a number above 0"),
    ],
)
def test_a_mistake_in_the_config_is_one_sentence(
    tiny: Any, mistake: Callable[[int], str], more: list[str], said: str
) -> None:
    assert said in mistake(tiny.run("doctor", *more))


def test_doctor_asks_for_a_config(mistake: Callable[[int], str]) -> None:
    assert "needs a config" in mistake(main(["doctor"]))


@pytest.mark.parametrize("command", ["predict", "test"])
def test_what_does_not_fit_is_refused_before_anything_is_rolled(
    tiny: Any, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checking, "free_memory", lambda device: 50_000)
    tiny.config["model"]["metrics"] = [{"class_path": "WorldTruth"}]
    assert tiny.run(command) == 2
    told = capsys.readouterr().err
    assert told.startswith("rollforge: This does not fit into memory.\n")
    assert "raw keys and values" in told
    assert not tiny.out.exists()


@pytest.fixture
def exhausted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A network that finds no memory after a while."""
    forward, passes = Pocket.forward, 0

    def fails(self: Pocket, *arguments: Any) -> Tensor:
        nonlocal passes
        passes += 1
        if passes > 7:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, *arguments)

    monkeypatch.setattr(Pocket, "forward", fails)
    return iter(())


@pytest.mark.usefixtures("exhausted")
def test_running_out_of_memory_keeps_the_finished_part(tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.run("predict") == 2
    told = capsys.readouterr().err
    assert "rollforge: The memory ran out (CUDA out of memory." in told
    assert "keys and values in view" in told
    assert "model.policy.init_args.context_blocks: 1" in told
    assert "Traceback" not in told
    partial: list[Path] = [*tiny.out.glob("*.partial.mp4")]
    assert len(partial) == 1
    assert sum(1 for _ in frames(partial[0])) >= 9
    assert tiny.videos() == []
