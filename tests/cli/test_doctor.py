"""``rollforge doctor``, and the memory checks around ``predict`` and ``test``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from rollforge.backbones.pocket.network import Pocket
from rollforge.budget import budget_check as checking
from rollforge.cli import main
from rollforge.doctor.half import product_milliseconds
from rollforge.registry import registry
from rollforge.video.reader import frames


@pytest.fixture
def examine(tiny: Any, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, str], str]]:
    """Runs doctor: the exit code, the verdict on each subject (the worst), and all that it said."""

    def run(*more: str, probe: str = "0.05") -> tuple[int, dict[str, str], str]:
        code = tiny.run("doctor", "--probe_seconds", probe, *more)
        text = capsys.readouterr().out
        statuses: dict[str, str] = {}
        for line in text.splitlines():
            status, _, rest = line.partition(" ")
            if status in ("ok", "warning", "problem"):
                subject = rest.split()[0]
                statuses[subject] = max(status, statuses.get(subject, ""), key=["", "ok", "warning", "problem"].index)
        return code, statuses, text

    return run


def test_a_config_that_works_is_told_so_line_by_line(tiny: Any, examine: Any) -> None:
    code, statuses, text = examine()
    assert code == 0, text
    random = {"backbone": "warning", "codec": "warning"}
    fine = ("versions", "plugins", "device", "conditioner", "prompts", "memory", "encoder", "output", "time", "disk")
    assert statuses == random | dict.fromkeys(fine, "ok")
    assert "keys and values in view" in text
    assert "1 layers of 2 heads x 16; latents are 8x8x8" in text
    assert "About " in text
    assert text.endswith("This will work, with 2 warnings.\n")
    assert not tiny.out.exists()


def test_weights_that_nobody_named_are_a_problem(tiny: Any, examine: Any) -> None:
    del tiny.config["model"]["backbone"]["init_args"]["weights"]
    code, statuses, text = examine(probe="0")
    assert (code, statuses["backbone"]) == (1, "problem")
    assert "Pocket has random weights; name its checkpoint" in text


def test_a_picture_that_opens_a_chunk_wise_video_is_a_warning(tiny: Any, examine: Any) -> None:
    Image.new("RGB", (64, 64), "white").save(tiny.folder / "picture.png")
    code, statuses, text = examine("--data.opening", str(tiny.folder / "picture.png"), probe="0")
    assert (code, statuses["opening"]) == (0, "warning")
    assert "The opening has 1 latent frame, and this model makes blocks of 3" in text


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
    code, statuses, text = examine()
    assert code == 1
    problems = {subject for subject, status in statuses.items() if status == "problem"}
    assert problems == {"backbone", "codec", "conditioner", "output", "disk"}
    for words in ("nowhere.safetensors", "nowhere-else.safetensors", "'a dragon in the rain'", "is not a folder"):
        assert words in text
    assert statuses["memory"] == "ok"  # the sizes are known all the same
    assert statuses["time"] == "warning"
    assert text.endswith("This will not work: 5 problems.\n")
    assert tiny.out.read_text() == "in the way"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_a_problem(examine: Any) -> None:
    code, statuses, _ = examine("--trainer.accelerator", "gpu")
    assert (code, statuses["device"]) == (1, "problem")


def test_a_budget_that_does_not_fit_is_a_problem(examine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "free_memory", lambda device: 50_000)
    code, statuses, text = examine()
    assert (code, statuses["memory"], statuses["time"]) == (1, "problem", "warning")
    assert "too much" in text
    assert "A rollout does not fit." in text


CONFIGS = Path(__file__).parents[2] / "configs" / "wan"


@pytest.mark.parametrize(
    ("config", "card", "code", "expected"),
    [
        ("self-forcing-5s", "16GB", 0, "if the model has the default sizes of Wan"),
        ("rolling-sink-5min", "16GiB", 1, "It would fit with model.codec: TinyWanDecoder"),
        ("wan-14b", "80GB", 0, "2 x 1 x 40 layers x 12 frames"),
    ],
)
def test_a_card_that_is_not_here_is_answered_for(
    config: str, card: str, code: int, expected: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)  # where there are no weights
    assert main(["doctor", "--config", str(CONFIGS / f"{config}.yaml"), "--card", card]) == code
    text = capsys.readouterr().out
    assert f"{'ok' if code == 0 else 'problem':8} memory" in text
    assert "cuda:0  freed before the first block" in text  # the text encoder
    assert expected in text
    assert ("default sizes" in text.partition("memory")[2][:200]) == (
        config != "wan-14b"
    )  # whose config gives its sizes
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("card", ["big", "-16GB", "0.1GB", "16 apples", "nan"])
def test_the_size_of_a_card_is_checked(tiny: Any, error_line: Callable[[int], str], card: str) -> None:
    assert "such as 16GB" in error_line(tiny.run("doctor", f"--card={card}"))


def test_snapshots_are_part_of_the_disk(tiny: Any, examine: Any) -> None:
    def printed(*more: str) -> str:
        lines = examine(*more, probe="0")[2].splitlines()
        return next(line for line in lines if " disk " in line)

    kept = "snapshots and latents "
    assert f"{kept}0 B" not in printed()
    assert f"{kept}0 B" in printed("--data.seconds", "0.1")  # one block


def test_what_raises_in_a_check_is_a_problem_and_no_traceback(
    tiny: Any, examine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any) -> Any:
        raise PermissionError(13, "Permission denied", "secret")

    for name in ("versions", "plugins", "output_folder", "disk"):
        monkeypatch.setattr(f"rollforge.doctor.machine.{name}", fails)
    monkeypatch.setattr(checking, "free_memory", fails)
    code, statuses, text = examine(probe="0")
    assert code == 1
    assert {"versions", "plugins", "memory", "output", "disk"} <= {
        subject for subject, status in statuses.items() if status == "problem"
    }
    assert "Traceback" not in text


def test_a_folder_where_a_file_is_expected_is_a_problem(tiny: Any, examine: Any) -> None:
    (tiny.folder / "folder.safetensors").mkdir()
    (tiny.out / "manifest.json").mkdir(parents=True)
    for part in ("backbone", "codec"):
        tiny.config["model"][part]["init_args"]["weights"] = str(tiny.folder / "folder.safetensors")
    code, statuses, text = examine(probe="0")
    assert (code, statuses["backbone"], statuses["codec"]) == (1, "problem", "problem")
    assert "Traceback" not in text


def test_plugins_that_fail_are_named(examine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry(), "failures", ["wobble 1.0: the plugin 'wobble' was skipped (ImportError: no)."])
    code, statuses, text = examine(probe="0")
    assert (code, statuses["plugins"]) == (0, "warning")
    assert "wobble 1.0: the plugin 'wobble' was skipped" in text


def test_videos_of_another_config_are_a_problem(tiny: Any, examine: Any) -> None:
    tiny.out.mkdir()
    (tiny.out / "manifest.json").write_text(json.dumps({"config_hash": "other", "videos": []}))
    code, statuses, text = examine(probe="0")
    assert (code, statuses["output"]) == (1, "problem")
    assert "holds videos of another config" in text
    assert [path.name for path in tiny.out.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--data.secnods", "3"], "Did you mean"),
        (["--model.policy.init_args.sink_blocks", "7"], "lower sink_blocks to 2"),
        (["--data.seconds", "0"], "data.seconds must be a number above 0"),
    ],
)
def test_a_mistake_in_the_config_is_one_sentence(
    tiny: Any, error_line: Callable[[int], str], more: list[str], expected: str
) -> None:
    assert expected in error_line(tiny.run("doctor", *more))


def test_doctor_asks_for_a_config(error_line: Callable[[int], str]) -> None:
    assert "needs a config" in error_line(main(["doctor"]))


TRAINING = {
    "train_dataset": {"class_path": "WorldClips", "init_args": {"frames": 6, "clips": 4}}, "batch_size": 2
}  # fmt: skip


@pytest.mark.parametrize(
    ("command", "line"), [("predict", "raw keys"), ("test", "raw keys"), ("fit", "activations of a training step")]
)
def test_what_does_not_fit_is_refused_before_anything_is_rolled(
    tiny: Any, command: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checking, "free_memory", lambda device: 50_000)
    tiny.config["model"] |= {"metrics": [{"class_path": "WorldTruth"}], "objective": {"class_path": "TeacherForcing"}}
    tiny.config["data"] |= TRAINING
    assert tiny.run(command) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("rollforge: This does not fit into memory.\n")
    assert line in printed
    assert not tiny.out.exists()


def test_doctor_shows_the_budget_of_training(tiny: Any, examine: Any) -> None:
    tiny.config["model"] |= {"objective": {"class_path": "TeacherForcing"}, "ema": 0.9}
    tiny.config["model"]["backbone"]["init_args"]["weights"] = None
    tiny.config["data"] = TRAINING
    code, statuses, text = examine()
    assert (code, statuses["training"], statuses["backbone"], statuses["prompts"]) == (0, "ok", "warning", "warning")
    for name in ("gradients", "state of the optimizer", "averaged weights", "activations of a training step"):
        assert f"  {name}" in text


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
    printed = capsys.readouterr().err
    assert "rollforge: The memory ran out (CUDA out of memory." in printed
    assert "keys and values in view" in printed
    assert "model.policy.init_args.context_blocks: 1" in printed
    assert "Traceback" not in printed
    partial: list[Path] = [*tiny.out.glob("*.partial.mp4")]
    assert len(partial) == 1
    assert sum(1 for _ in frames(partial[0])) >= 9
    assert tiny.videos() == []


@pytest.mark.parametrize(("half", "reported"), [(1.0, True), (1.9, False)])
def test_bfloat16_is_named_where_it_is_faster(
    half: float, reported: bool, examine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def milliseconds(x: Tensor, weight: Tensor) -> float:
        assert x.shape[1] == weight.shape[1]
        return half if x.dtype == torch.bfloat16 else 2.0

    monkeypatch.setattr("rollforge.doctor.half.product_milliseconds", milliseconds)
    _, _, text = examine()
    sentence = "takes 2.00 ms in float32 and 1.00 ms in bfloat16 here: --trainer.precision bf16-true may be faster"
    assert (sentence in text) is reported
    assert "bfloat16 here" not in examine("--trainer.precision", "bf16-true")[2]


def test_products_are_timed() -> None:
    small, large = (product_milliseconds(torch.zeros(n, n), torch.zeros(n, n)) for n in (8, 512))
    assert 0 < small < large
