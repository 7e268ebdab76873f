"""A stage after the codec: what is shown, what is measured, and a rollout that is cut."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small import MODEL, not_enlarged, one_thread  # noqa: F401 - a fixture is used by being here
from torch import Tensor

from rollforge import load
from rollforge.budget import MemoryCheck
from rollforge.cli import main
from rollforge.errors import UserError
from rollforge.evaluation.measure import measure
from rollforge.finish import Enlarge, Finish, FinishStream
from rollforge.metrics import Exposure, Sharpness
from rollforge.pipeline import Pipeline, VideoBlock
from rollforge.report.session import Session
from rollforge.state import State
from rollforge.video.reader import frames

PROMPT, SECONDS = "a red ball over snow at day", 3.0


class Fading(Finish):
    """Twice the size; each frame is mixed with all before it, and has a weight of its own."""

    def __init__(self, weights: str | None = "random") -> None:
        super().__init__()
        self.weights, self.keep = weights, torch.nn.Parameter(torch.tensor(0.5))

    def stream(self) -> FinishStream:
        return Faded(self)

    def pixel_size(self, width: int, height: int) -> tuple[int, int]:
        return 2 * width, 2 * height


class Faded(FinishStream):
    def __init__(self, stage: Any) -> None:
        self.stage = stage
        self.last: Tensor | None = None

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> Tensor:
        shown = []
        for frame in frames.unbind(1):
            self.last = frame if self.last is None else torch.lerp(frame, self.last, self.stage.keep)
            shown.append(self.last.repeat_interleave(2, 2).repeat_interleave(2, 3))
        return torch.stack(shown, dim=1)

    def state_dict(self) -> State:
        return {"last": self.last}

    def load_state_dict(self, state: State) -> None:
        self.last = state["last"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    text = {"model": deepcopy(MODEL), "data": {"prompts": [PROMPT], "seconds": SECONDS}, "output_dir": str(tmp_path)}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(text))
    return tmp_path / "tiny.yaml"


def pipeline(config: Path, finish: Finish | None = None) -> Pipeline:
    made = load(config)
    made.finish = finish
    return made.eval()


def joined(blocks: Sequence[VideoBlock], what: str = "frames") -> Tensor:
    return torch.cat([getattr(block, what) for block in blocks], dim=1)


def test_frames_are_finished_for_show_and_measured_as_decoded(config: Path) -> None:
    plain, made = list(pipeline(config).roll(PROMPT, SECONDS)), pipeline(config, Fading())
    blocks = list(made.roll(PROMPT, SECONDS))
    decoded = joined(plain)
    assert torch.equal(joined(blocks, "measured"), decoded)
    width, height = made.size
    assert made.finished_size == (2 * width, 2 * height)
    assert joined(blocks).shape == (1, decoded.shape[1], 2 * height, 2 * width, 3)
    assert torch.equal(joined(blocks)[:, 0, ::2, ::2], decoded[:, 0])  # nothing was before it
    assert not torch.equal(joined(blocks)[:, 1, ::2, ::2], decoded[:, 1])
    made.measure_finished = True
    assert torch.equal(joined(list(made.roll(PROMPT, SECONDS)), "measured"), joined(blocks))


def test_a_clip_is_measured_as_it_was_decoded_unless_asked(config: Path) -> None:
    plain, made = pipeline(config), pipeline(config, Enlarge(2, "nearest"))
    (clip,), (expected,) = made.generate(PROMPT, SECONDS), plain.generate(PROMPT, SECONDS)
    assert clip.frames.shape[2] == 2 * expected.frames.shape[2]
    sharp = measure(expected, [Sharpness()]).means()
    assert measure(clip, [Sharpness()]).means() == sharp
    made.measure_finished = True
    assert measure(made.generate(PROMPT, SECONDS)[0], [Sharpness()]).means() != sharp


@pytest.mark.parametrize("kv", [True, False])
@pytest.mark.parametrize("seconds", [SECONDS, 3.25])  # 3.25 s end within a block
def test_a_rollout_that_is_cut_goes_on_bit_for_bit(config: Path, kv: bool, seconds: float) -> None:
    made = pipeline(config, Fading())
    rollout, states, blocks = made.roll(PROMPT, seconds), [], []
    for block in rollout:
        blocks.append(block)
        states.append(rollout.state_dict(kv))
    for cut in (1, len(blocks) // 2, len(blocks) - 1):
        finished = [] if kv else [block.latents for block in blocks[:cut]]
        again = list(made.roll(PROMPT, seconds, state=states[cut - 1], finished=finished))
        assert torch.equal(joined(again), joined(blocks[cut:]))
        assert torch.equal(joined(again, "measured"), joined(blocks[cut:], "measured"))


def test_a_fork_and_a_longer_video_go_on_from_the_same_state(config: Path) -> None:
    made = pipeline(config, Fading())
    full = joined(list(made.roll(PROMPT, 2 * SECONDS)))
    rollout = made.roll(PROMPT, SECONDS)
    first = [next(rollout), next(rollout)]
    fork = rollout.fork()
    assert torch.equal(joined([*first, *fork]), joined([*first, *rollout]))
    fork.extend(SECONDS)
    made_of_fork = joined([*list(fork)])
    assert torch.equal(made_of_fork, full[:, -made_of_fork.shape[1] :])


@pytest.mark.parametrize(
    ("returned", "problem"),
    [
        (
            lambda x: x[:, 1:],
            "The finish Fading returned a float32 tensor of shape [1, 2, 3, 128, 128] for the 3",
        ),
        (lambda x: x + 1, "The finish Fading returned 'pixel values from 1 to 2' for the 3 frames of block 0"),
        (lambda x: x[0, 0, 0, 0, 0, 0], "The finish Fading raised IndexError for the 3 frames of block 0 ("),
    ],
)
def test_what_a_stage_returns_is_checked(
    config: Path, returned: Any, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Faded.__call__
    monkeypatch.setattr(Faded, "__call__", lambda self, frames: returned(call(self, frames)))
    with pytest.raises(UserError) as error:
        next(pipeline(config, Fading()).roll(PROMPT, SECONDS))
    assert str(error.value).startswith(problem)


def test_random_weights_that_nobody_asked_for_are_not_rolled(config: Path) -> None:
    with pytest.raises(UserError, match=r"The finish Fading has random weights; .* in model.finish.init_args.weights"):
        pipeline(config, Fading(None)).roll(PROMPT, SECONDS)


def test_the_budget_counts_weights_state_and_the_busiest_moment(config: Path) -> None:
    made = pipeline(config, Fading())
    budget = MemoryCheck.here(made.memory_input(made.requests(PROMPT, SECONDS))).budget
    lines = {line.name: line.size for line in budget.lines}
    width, height = made.size
    assert lines["weights of the finish"] == 4
    assert lines["state of the finish"] == 4 * 3 * width * height
    assert lines["finishing a block"] >= 3 * 4 * 3 * 4 * width * height  # three frames of twice the size


def test_predict_and_test_write_finished_videos_and_measure_decoded_ones(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(name: str, *more: str) -> tuple[Path, list[dict[str, str]]]:
        out = tmp_path / name
        assert main(["test", "--config", str(config), "--output_dir", str(out), *metrics, *more]) == 0
        (video,) = out.glob("*.mp4")
        return video, list(csv.DictReader(video.with_suffix(".curves.csv").open()))

    metrics = ["--model.metrics+=Sharpness"]
    plain, curves = run("plain")
    large, same = run("large", "--model.finish", "Enlarge", "--model.finish.factor", "2")
    assert same == curves
    assert next(iter(frames(large))).shape[0] == 2 * next(iter(frames(plain))).shape[0]
    (entry,) = json.loads((large.parent / "manifest.json").read_text())["videos"]
    assert entry["size"] == [128, 128]


@pytest.mark.parametrize("kv", ["save", "recompute"])
def test_predict_resumes_a_finished_video_bit_for_bit(
    config: Path, tmp_path: Path, kv: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Enlarge, "stream", lambda self: Faded(Fading()))

    def run(out: str, *more: str) -> int:
        stage = ["--model.finish", "Enlarge", "--model.finish.factor", "2"]
        often = ["--snapshots.every_blocks", "1", "--snapshots.kv", kv]
        return main(["predict", "--config", str(config), "--output_dir", str(tmp_path / out), *stage, *often, *more])

    seen: list[int] = []
    add = Session.add
    monkeypatch.setattr(Session, "add", lambda self, block: seen.append(block.index) or add(self, block))
    assert run("full") == 0
    with monkeypatch.context() as patch:
        patch.setattr(Session, "add", lambda self, block: add(self, block) if block.index < 4 else _stop())
        assert run("cut") == 130
    assert run("cut", "--resume") == 0
    assert seen == [*range(8), *range(4, 8)]
    (full,), (cut,) = ((tmp_path / out).glob("*.mp4") for out in ("full", "cut"))
    assert full.read_bytes() == cut.read_bytes()


def _stop() -> None:
    raise KeyboardInterrupt


def test_decode_finishes_kept_latents(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = ["--model.finish", "Enlarge", "--model.finish.factor", "2"]
    out = tmp_path / "kept"
    assert main(["predict", "--config", str(config), "--output_dir", str(out), "--snapshots.latents", "true"]) == 0
    (latents,) = (out / "latents").iterdir()
    again = tmp_path / "again.mp4"
    assert main(["decode", str(latents), "--config", str(config), "--out", str(again), *stage]) == 0
    assert next(iter(frames(again))).shape == (128, 128, 3)


def test_exposure_of_finished_frames_may_be_asked_for_in_the_config(config: Path) -> None:
    made = load(config, "model.finish=Enlarge", "model.measure_finished=true")
    assert (type(made.finish).__name__, made.measure_finished) == ("Enlarge", True)
    (clip,) = made.generate(PROMPT, SECONDS)
    assert clip.decoded is None
    assert measure(clip, [Exposure()]).failed == {}
