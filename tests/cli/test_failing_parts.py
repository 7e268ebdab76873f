"""Parts that raise, hook by hook: the part and the moment are named, or it is disabled and the rollout continues."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rollforge.cli import main
from rollforge.policies import LongLive
from rollforge.spec import Step
from rollforge.video.reader import probe

MODULE = '''
import os
import sys
from lightning.pytorch import Callback
from rollforge.backbones.pocket.codec import PocketCodec
from rollforge.backbones.pocket.network import Pocket
from rollforge.backbones.pocket.text import PocketText
from rollforge.memory import IdentityKVCodec, Rope
from rollforge.metrics.base import Metric
from rollforge.noise import IndependentNoise
from rollforge.policies import LongLive
from rollforge.samplers import Euler


def asked_by_the_budget():
    frame = sys._getframe()
    while frame and "budget" not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None


def stumbling(base, *hooks):
    """A subclass whose hook named in the environment raises, the third time at the latest."""

    class Stumbling(base):
        pass

    def broken(name):
        calls = []

        def hook(self, *arguments, **options):
            if asked_by_the_budget():  # which carries out plans before anything is rolled, and tolerates failures
                return getattr(base, name)(self, *arguments, **options)
            calls.append(name)
            if os.environ["HOOK"] == name and len(calls) > int(os.environ.get("AFTER", "0")):
                raise ZeroDivisionError("it stumbled")
            return getattr(base, name)(self, *arguments, **options)

        return hook

    for name in hooks:
        setattr(Stumbling, name, broken(name))
    return Stumbling


class Policy(stumbling(LongLive, "plan", "live", "moves", "visible", "on_commit", "on_event", "state_dict")):
    def __init__(self) -> None:
        super().__init__(2, 1, 2)


class Network(stumbling(Pocket, "forward")):
    def __init__(self) -> None:
        super().__init__(dim=32, layers=1, heads=2, ffn_dim=64, window=6, horizon=6, weights="random")


class Codec(stumbling(PocketCodec, "encode", "stream", "pixel_frames", "pixel_size", "pixels")):
    def __init__(self) -> None:
        super().__init__(width=16, weights="random")


class Text(stumbling(PocketText, "check", "forward")):
    pass


class Sampler(stumbling(Euler, "run", "commit")):
    def __init__(self) -> None:
        super().__init__(steps=1)


class Noise(stumbling(IndependentNoise, "draw")):
    pass


class Rotary(stumbling(Rope, "temporal", "rotation")):
    pass


class Kept(stumbling(IdentityKVCodec, "encode", "decode")):
    pass


class Flat(Metric):
    def start(self, prompt, fps, blocks=None):
        self.seen = 0

    def update(self, frames, start):
        self.seen += len(frames)
        return {"flat": frames.float().mean(dim=(1, 2, 3))}

    def finish(self):
        return {"seen": float(self.seen)}


class Measure(stumbling(Flat, "start", "update", "update_latents", "finish")):
    pass


class Hear(stumbling(Callback, "setup", "on_predict_start", "on_predict_batch_start", "on_predict_batch_end",
                     "on_predict_epoch_end", "on_predict_end", "teardown")):
    pass


class Wrong(LongLive):
    def __init__(self, answer: str) -> None:
        super().__init__(2, 1, 2)
        self.answer = answer

    def plan(self, step):
        from rollforge.spec import ReadPlan
        if step.index < 3:
            return super().plan(step)
        return {"none": None, "far": ReadPlan.of([(99, 0)], 9), "many": ReadPlan.of([(1, n) for n in range(99)], 9)}[
            self.answer]
'''
PROMPTS = [[{"prompt": "a red ball over snow at day"}, {"at": 1.5, "prompt": "a blue box over snow at day"}]]
FATAL = [
    *[("policy", "Policy", hook) for hook in ("plan", "live", "moves", "visible", "on_commit", "on_event")],
    ("backbone", "Network", "forward"),
    *[("codec", "Codec", hook) for hook in ("stream", "pixel_frames", "pixel_size", "pixels")],
    *[("conditioner", "Text", hook) for hook in ("check", "forward")],
    *[("sampler", "Sampler", hook) for hook in ("run", "commit")],
    ("noise", "Noise", "draw"),
    *[("positions", "Rotary", hook) for hook in ("temporal", "rotation")],
    *[("kv_codec", "Kept", hook) for hook in ("encode", "decode")],
]
KINDS = {"policy": "cache policy", "noise": "noise prior", "kv_codec": "KV codec"}


@pytest.fixture
def error_line(capsys: pytest.CaptureFixture[str]) -> Callable[[int], str]:
    """The sentence in which a command ended, after its progress bar."""

    def check(code: int) -> str:
        stderr = capsys.readouterr().err
        assert code == 2, stderr
        assert "Traceback" not in stderr
        last = stderr.strip().splitlines()[-1]
        assert last.startswith("rollforge: ")
        return last

    return check


@pytest.fixture
def stumble(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tiny config, with the module of stumbling parts at hand and trusted."""
    (tiny.folder / "stumble.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tiny.folder)
    monkeypatch.delitem(sys.modules, "stumble", raising=False)
    tiny.config["data"]["prompts"] = PROMPTS
    return tiny


@pytest.mark.parametrize(("part", "name", "hook"), FATAL, ids=lambda value: value)
def test_a_part_that_raises_is_named_with_the_moment(
    stumble: Any, error_line: Callable[[int], str], monkeypatch: pytest.MonkeyPatch, part: str, name: str, hook: str
) -> None:
    monkeypatch.setenv("HOOK", hook)
    stumble.config["model"][part] = {"class_path": f"stumble.{name}"}
    message = error_line(stumble.run("predict", "--trust", "stumble"))
    assert f"The {KINDS.get(part, part)} {name} raised ZeroDivisionError" in message
    assert "(it stumbled)" in message
    assert not stumble.videos()


@pytest.mark.parametrize(("hook", "after"), [("plan", "4"), ("on_commit", "2"), ("forward", "7"), ("pixels", "4")])
def test_what_was_made_before_stays_playable_and_the_traceback_is_kept(
    stumble: Any, error_line: Callable[[int], str], monkeypatch: pytest.MonkeyPatch, hook: str, after: str
) -> None:
    monkeypatch.setenv("HOOK", hook)
    monkeypatch.setenv("AFTER", after)
    part, name = {"forward": ("backbone", "Network"), "pixels": ("codec", "Codec")}.get(hook, ("policy", "Policy"))
    stumble.config["model"][part] = {"class_path": f"stumble.{name}"}
    message = error_line(stumble.run("predict", "--trust", "stumble"))
    assert f"The traceback is in {stumble.out / 'traceback.txt'}" in message
    assert "ZeroDivisionError: it stumbled" in (stumble.out / "traceback.txt").read_text()
    (partial,) = stumble.out.glob("*.partial.mp4")
    assert probe(partial).frames >= 3
    assert not stumble.videos()


@pytest.mark.parametrize(
    ("answer", "why"),
    [("none", "returned None"), ("far", "reads frame 99"), ("many", "reads 99 frames; its policy declared")],
)
def test_a_plan_that_cannot_be_followed_is_named(
    stumble: Any, error_line: Callable[[int], str], answer: str, why: str
) -> None:
    stumble.config["model"]["policy"] = {"class_path": "stumble.Wrong", "init_args": {"answer": answer}}
    message = error_line(stumble.run("predict", "--trust", "stumble"))
    assert "cache policy Wrong" in message
    assert why in message
    assert "block 3" in message


def finished(out: Path) -> dict[str, Any]:
    """What the manifest says of the only video, which is whole."""
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["complete"] is True
    (entry,) = manifest["videos"]
    assert probe(out / entry["file"]).frames == 24
    video: dict[str, Any] = entry
    return video


@pytest.mark.parametrize("hook", ["start", "update", "update_latents", "finish"])
def test_a_metric_that_raises_is_put_out_and_the_rollout_goes_on(
    stumble: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, hook: str
) -> None:
    monkeypatch.setenv("HOOK", hook)
    stumble.config["model"]["metrics"] = [{"class_path": "stumble.Measure"}, {"class_path": "stumble.Flat"}]
    assert stumble.run("predict", "--trust", "stumble") == 0
    entry = finished(stumble.out)
    assert "it stumbled" in entry["failed_metrics"]["Measure"]
    assert entry["measured"]["seen"] == 24  # the other one
    assert "The metric Measure raised ZeroDivisionError" in caplog.text
    (curves,) = stumble.out.glob("*.curves.csv")
    assert len(curves.read_text().splitlines()) == 25


@pytest.mark.parametrize(
    "hook",
    [
        *("setup", "on_predict_start", "on_predict_batch_start", "on_predict_batch_end", "on_predict_epoch_end"),
        *("on_predict_end", "teardown"),
    ],
)
def test_a_callback_that_raises_is_put_out_and_the_rollout_goes_on(
    stumble: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, hook: str
) -> None:
    monkeypatch.setenv("HOOK", hook)
    stumble.config["trainer"] = {"callbacks": [{"class_path": "stumble.Hear"}]}
    assert stumble.run("predict", "--trust", "stumble") == 0
    finished(stumble.out)
    assert f"The callback Hear raised ZeroDivisionError in {hook}" in caplog.text


def test_a_policy_whose_state_cannot_be_told_ends_no_rollout(
    stumble: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK", "state_dict")
    stumble.config["model"]["policy"] = {"class_path": "stumble.Policy"}
    stumble.config["snapshots"] = {"every_blocks": 2}
    assert stumble.run("predict", "--trust", "stumble") == 0
    finished(stumble.out)
    assert "The cache policy Policy raised ZeroDivisionError" in caplog.text
    assert "No snapshot was made" in caplog.text


@pytest.mark.parametrize("hook", ["encode"])
def test_a_codec_that_cannot_encode_an_opening_is_named(
    stumble: Any, error_line: Callable[[int], str], monkeypatch: pytest.MonkeyPatch, hook: str
) -> None:
    from PIL import Image

    monkeypatch.setenv("HOOK", hook)
    Image.new("RGB", (64, 64)).save(stumble.folder / "first.png")
    stumble.config["model"]["codec"] = {"class_path": "stumble.Codec"}
    stumble.config["data"]["opening"] = str(stumble.folder / "first.png")
    assert "The codec Codec raised ZeroDivisionError encoding" in error_line(
        stumble.run("predict", "--trust", "stumble")
    )


def test_a_video_begun_without_metrics_does_not_go_on_with_some(
    stumble: Any, error_line: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK", "plan")
    monkeypatch.setenv("AFTER", "9")
    stumble.config["model"]["policy"] = {"class_path": "stumble.Policy"}
    stumble.config["snapshots"] = {"every_blocks": 2}
    error_line(stumble.run("predict", "--trust", "stumble"))
    monkeypatch.setenv("HOOK", "none")
    assert "measured" in error_line(stumble.run("test", "--trust", "stumble", "--resume"))
    assert "No snapshot" in error_line(stumble.run("test", "--trust", "stumble", "--resume", "--force"))
    assert stumble.run("predict", "--trust", "stumble", "--resume") == 0
    finished(stumble.out)


def test_the_command_that_goes_on_trusts_what_was_trusted(
    stumble: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK", "none")
    stumble.config["model"]["policy"] = {"class_path": "stumble.Policy"}
    on_commit = LongLive.on_commit

    def interrupted(self: LongLive, step: Step) -> None:
        if step.index == 2 and signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # the budget asks before
            os.kill(os.getpid(), signal.SIGTERM)
        on_commit(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(LongLive, "on_commit", interrupted)
        with pytest.raises(SystemExit) as stop:
            stumble.run("predict", "--trust", "stumble")
    assert stop.value.code == 143
    again = shlex.split(capsys.readouterr().err.rstrip().splitlines()[-1])
    assert again[:2] == ["rollforge", "predict"]
    assert main(again[1:]) == 0
    finished(stumble.out)
