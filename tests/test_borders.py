"""Codecs, metrics, objectives and conditioners: what they return is checked, and they are named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rollforge.backbones.base import Condition, DecodeStream
from rollforge.backbones.pocket.codec import PocketCodec
from rollforge.backbones.pocket.network import Pocket
from rollforge.backbones.pocket.text import PocketText
from rollforge.borders import WrongAnswer, check_losses
from rollforge.data.requests import Request
from rollforge.errors import UserError
from rollforge.finish import Enlarge
from rollforge.metrics.base import Blocks, Metric, directions
from rollforge.metrics.summary import worst_of
from rollforge.pipeline import Pipeline
from rollforge.policies import Window
from rollforge.report.metric_runner import MetricRunner
from rollforge.samplers import Euler, FewStep
from rollforge.state import State


class WrongStream(DecodeStream):
    def __init__(self, frames: Any) -> None:
        self.frames = frames

    def __call__(self, latents: Tensor) -> Any:
        return self.frames

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        return


class WrongCodec(PocketCodec):
    """Decodes to the same frames whatever the latents are."""

    frames: Any = None

    def stream(self) -> DecodeStream:
        return WrongStream(self.frames)

    def encode(self, video: Tensor) -> Tensor:
        return super().encode(video)[:, :, :3]


class WrongText(PocketText):
    def forward(self, prompts: Any) -> Condition:
        return Condition("", super().forward(prompts).embeds[:0])


def pipeline(codec: Any, conditioner: Any = None) -> Pipeline:
    network = Pocket(dim=32, layers=1, heads=2, ffn_dim=64, window=6, horizon=6, weights="random")
    return Pipeline(
        backbone=network, conditioner=conditioner or PocketText(), codec=codec, policy=Window(1), sampler=Euler(1)
    )


@pytest.mark.parametrize(
    ("frames", "sentence"),
    [
        (torch.zeros(1, 3, 3, 64, 32), r"expected floats of shape \[1, 3, 3, 64, 64\]"),
        (torch.zeros(1, 2, 3, 64, 64), "The codec WrongCodec returned a float32 tensor of shape .*2, 3, 64, 64"),
        (torch.zeros(1, 3, 64, 64, 3), "for the 3 latent frames of block 0"),
        (torch.zeros(1, 3, 3, 64, 64, dtype=torch.uint8), "returned a uint8 tensor"),
        (torch.full((1, 3, 3, 64, 64), 200.0), "pixel values from 200 to 200' .* expected values from 0 to 1"),
        (torch.full((1, 3, 3, 64, 64), -1.0), "pixel values from -1 to -1"),
        (None, "The codec WrongCodec returned None"),
        (torch.full((1, 3, 3, 64, 64), float("nan")), "WrongCodec returned 'pixel values that are NaN'"),
        (torch.zeros(1, 3, 3, 64, 64, device="meta"), "WrongCodec returned .* on meta"),
    ],
)
def test_decoded_frames_are_checked(frames: Any, sentence: str) -> None:
    codec = WrongCodec(width=16, weights="random")
    codec.frames = frames
    with pytest.raises(UserError, match=sentence):
        list(pipeline(codec).roll_requests([Request("", 0, 0, 6)]))


def test_encoded_frames_and_text_features_are_checked() -> None:
    codec = WrongCodec(width=16, weights="random").eval()
    with pytest.raises(UserError, match=r"The codec WrongCodec returned .* for 3 pixel frames; expected floats of"):
        pipeline(codec).encode(torch.zeros(1, 3, 64, 64, 3, dtype=torch.uint8))
    with pytest.raises(UserError, match=r"The conditioner WrongText returned .* as embeds .* a tensor with 1 rows"):
        pipeline(codec, WrongText()).condition([""])


def other(base: type, *arguments: Any, **members: Any) -> Any:
    """A component with other attributes and methods."""
    return type("Wrong", (base,), members)(*arguments).eval()


class Latin(PocketText):
    """Features that are not finite."""

    def forward(self, prompts: Any) -> Condition:
        return Condition("", super().forward(prompts).embeds / 0)


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"codec": other(PocketCodec, pixel_frames=lambda self, count: None)}, "Wrong returned None from pixel_frames"),
        ({"codec": other(PocketCodec, pixel_size=lambda self, *size: 64)}, "Wrong returned 64 from pixel_size"),
        ({"codec": other(PocketCodec, stream=lambda self: None)}, r"Wrong returned None from stream\(\)"),
        ({"conditioner": Latin()}, "The conditioner Latin returned 'features that are not finite' for the prompts"),
        (
            {"finish": other(Enlarge, pixel_size=lambda self, *size: (-1, 2))},
            r"Wrong returned \(-1, 2\) from pixel_size",
        ),
        ({"finish": other(Enlarge, stream=lambda self: None)}, r"finish Wrong returned None from stream\(\)"),
        (
            {"sampler": type("Wrong", (FewStep,), {"guidance_branches": None})()},
            "Wrong returned None as guidance_branches",
        ),
    ],
)
def test_what_the_parts_of_a_pipeline_say_is_checked(parts: dict[str, Any], sentence: str) -> None:
    made = pipeline(PocketCodec(width=16, weights="random").eval())
    for name, part in parts.items():
        setattr(made, name, part)
    with pytest.raises(UserError, match=sentence):
        [*made.roll_requests([Request("", 0, 0, 6)]), made.finished_size]


def test_a_codec_must_encode_as_many_frames_as_it_says() -> None:
    short = other(PocketCodec, encode=lambda self, video: PocketCodec.encode(self, video)[:, 1:])
    with pytest.raises(UserError, match=r"Wrong returned .* for 3 pixel frames; expected as many latent"):
        pipeline(short).encode(torch.zeros(1, 3, 64, 64, 3, dtype=torch.uint8))


class WrongMetric(Metric):
    """Returns what it is told to."""

    def __init__(self, curves: Any, values: Any = None) -> None:
        self.curves, self.values = curves, values or {}

    def start(self, prompt: str, fps: float, blocks: Blocks | None = None) -> None:
        return

    def update(self, frames: Tensor, start: int) -> Any:
        return self.curves

    def finish(self) -> Any:
        return self.values


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        (WrongMetric({"a": torch.zeros(3)}), "as the curve a at frame 0; expected a tensor of 2 numbers"),
        (WrongMetric({"a": torch.zeros(2, 1)}), "returned a float32 tensor of shape [2, 1]"),
        (WrongMetric({"a": [1, 2]}), "returned [1, 2] as the curve a"),
        (WrongMetric([1, 2]), "returned [1, 2] at frame 0; expected a dict"),
        (WrongMetric({"a,b": torch.zeros(2)}), "as the name of a curve"),
        (WrongMetric({3: torch.zeros(2)}), "returned 3 as the name of a curve"),
        (WrongMetric({}, {"a": "much"}), "returned 'much' as 'a' at the end"),
    ],
)
def test_a_metric_that_returns_something_else_is_disabled(metric: Metric, sentence: str) -> None:
    runner = MetricRunner([metric])
    runner.start("", 8.0)
    assert runner.update(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), 0) in ({}, {})
    runner.finish()
    assert sentence in runner.out["WrongMetric"]


def test_a_metric_says_which_way_its_curves_are_better() -> None:
    metric = WrongMetric({})
    metric.better = {"a": "higher", "b": "lower"}
    assert directions([metric]) == metric.better
    assert worst_of(metric.better)["a"] == "lowest"
    metric.better = {"a": "up"}  # type: ignore[dict-item]
    with pytest.raises(UserError, match="The metric WrongMetric says 'up' is better of its curve a; expected 'higher'"):
        MetricRunner([metric])


@pytest.mark.parametrize(
    ("losses", "sentence"),
    [
        (torch.zeros(()), "expected a dict of scalar tensors with the key 'loss'"),
        ({"mse": torch.zeros(())}, "with the key 'loss'"),
        ({"loss": 0.5}, "returned 0.5 as 'loss' at step 3; expected a scalar tensor of floats"),
        ({"loss": torch.zeros(2, requires_grad=True)}, "a scalar tensor of floats"),
        ({"loss": torch.zeros(())}, "a 'loss' without a gradient"),
        ({"loss": torch.zeros((), requires_grad=True), "n": torch.tensor(3)}, "as 'n'"),
    ],
)
def test_losses_are_checked(losses: Any, sentence: str) -> None:
    with pytest.raises(WrongAnswer, match=sentence) as error:
        check_losses(object(), losses, "at step 3")
    assert str(error.value).startswith("The objective object returned ")
    loss = torch.zeros((), requires_grad=True)
    assert check_losses(object(), {"loss": loss}, "") == {"loss": loss}
