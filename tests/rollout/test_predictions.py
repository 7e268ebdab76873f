"""Whatever a network predicts, and however it names noise levels and blocks, the video is the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rollforge.backbones.base import Backbone, Condition
from rollforge.backbones.wan.network import Wan
from rollforge.errors import UserError
from rollforge.memory import FullMemory
from rollforge.policies import AttentionSink, Window
from rollforge.prediction import predict, target, to_flow
from rollforge.rollout import Rollout
from rollforge.samplers import Euler, FewStep, Finished, Job, Pass, Passes
from rollforge.samplers.base import add_noise
from rollforge.spec import ModelSpec, Prediction, Step

KINDS: list[Prediction] = ["flow", "clean", "noise", "velocity"]
SIZES = (2, 4, 2, (2, 2), 2, 2, 12, 2, 6, 6, 4.0)
TEXT = Condition("text", torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0)))


class Wrapped(Backbone):
    """A network that predicts the flow, made to predict something else of the same flow, at timesteps of its own."""

    def __init__(self, kind: Prediction, levels: float = 1000.0, largest: float = 1000.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = Wan(2, 4, 2, 24, 2, 2, 32, 16, 4, 3, block=2, window=6, horizon=6).eval()
        for parameter in self.inner.parameters():
            torch.nn.init.normal_(parameter, std=0.25)
        self.positions = self.inner.positions
        self.kind, self.levels = kind, list[float]()
        self.spec = ModelSpec(*SIZES, predicts=kind, levels=levels, largest_level=largest)

    def forward(self, latents: Tensor, timesteps: Tensor, condition: Condition, memory: Any) -> Tensor:
        self.levels.append(timesteps.max().item())
        timesteps = timesteps * (1000 / self.spec.levels)
        flow = self.inner(latents, timesteps, condition, memory)
        sigma = timesteps[..., None, None, None] / 1000
        clean, noise = latents - sigma * flow, latents + (1 - sigma) * flow
        return target(ModelSpec(*SIZES, predicts=self.kind), clean, noise, timesteps)


def rolled(network: Backbone, sampler: Any = None) -> Tensor:
    rollout = Rollout(network, Window(2), sampler or FewStep([1000, 600, 200], shift=1, context_noise=100.0))
    return torch.cat([block.latents for block in rollout(TEXT, 8)], dim=1)


@pytest.mark.parametrize("sampler", [None, Euler(steps=3, shift=2.0)], ids=["few_step", "euler"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_video_does_not_depend_on_what_the_network_predicts(kind: Prediction, sampler: Any) -> None:
    expected = rolled(Wrapped("flow", largest=950.0), sampler)
    torch.testing.assert_close(rolled(Wrapped(kind, largest=950.0), sampler), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["clean", "velocity"])
def test_pure_noise_is_no_limit_where_the_prediction_says_enough(kind: Prediction) -> None:
    torch.testing.assert_close(rolled(Wrapped(kind)), rolled(Wrapped("flow")), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_limits_are_finite(kind: Prediction) -> None:
    spec, x = ModelSpec(*SIZES, predicts=kind), torch.randn(1, 2, 2, 4, 2)
    flow = to_flow(spec, x.roll(1, 1), x, torch.tensor([[0.0, 1000.0]]))
    assert flow.isfinite().all()
    if kind == "noise":  # nothing is known of the clean frames but their mean
        torch.testing.assert_close(x[:, 1] - flow[:, 1], torch.zeros_like(x[:, 1]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_target_is_what_the_flow_is_computed_from(kind: Prediction) -> None:
    clean, noise = torch.randn(2, 1, 3, 2, 4, 2, dtype=torch.float64)
    levels = torch.tensor([[100.0, 500.0, 990.0]], dtype=torch.float64)
    spec = ModelSpec(*SIZES, predicts=kind)
    made = target(spec, clean, noise, levels)
    torch.testing.assert_close(to_flow(spec, made, add_noise(clean, noise, levels), levels), noise - clean)


def test_a_network_is_told_levels_on_its_own_scale_and_none_above_its_largest() -> None:
    network = Wrapped("flow", levels=1.0, largest=900.0)
    rolled(network, FewStep([1000, 500], shift=1))
    assert sorted(set(network.levels)) == pytest.approx([0.0, 0.5, 0.9])
    plain = Wrapped("flow")
    memory = FullMemory(plain.spec, range(2))
    x, top = torch.randn(1, 2, 2, 4, 2), torch.full((1, 2), 1000.0)
    capped = to_flow(network.spec, predict(network, x, top, TEXT, memory), x, top)
    known = predict(plain, x, torch.full((1, 2), 900.0), TEXT, FullMemory(plain.spec, range(2)))
    torch.testing.assert_close(x - capped, x - 0.9 * known, rtol=0, atol=1e-3)  # the same clean frames


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"predicts": "score"}, "predicts 'score'; expected one of flow, clean, noise, velocity"),
        ({"levels": 0}, "levels is 0"),
        ({"largest_level": 1001}, "largest_level is 1001"),
        ({"first_block": 0}, "first_block is 0"),
        ({"kv_heads": 3}, "kv_heads is 3; it must divide its 2 heads"),
        ({"kv_heads": (1, 2, 1)}, "kv_heads for 3 layers; it has 2 layers"),
    ],
)
def test_a_spec_that_no_network_has_is_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        ModelSpec(*SIZES, **wrong)


def test_keys_and_values_may_have_fewer_heads() -> None:
    assert ModelSpec(*SIZES).kv_shape(1) == (2, 12)
    assert ModelSpec(*SIZES, kv_heads=1).kv_shape(1) == (1, 12)
    assert [ModelSpec(*SIZES, kv_heads=(2, 1)).kv_shape(layer) for layer in (0, 1)] == [(2, 12), (1, 12)]


def small(first: int | None) -> Wan:
    network = Wrapped("flow").inner
    network.spec = ModelSpec(*SIZES, first_block=first)
    return network


@pytest.mark.parametrize("kv", [True, False])
def test_the_first_block_may_have_another_size(kv: bool) -> None:
    rollout = Rollout(small(1), AttentionSink(2, 1), FewStep([1000, 500]))
    run = rollout(TEXT, 8)
    made = [next(run) for _ in range(3)]
    state = run.state_dict(kv)
    rest = list(run)
    sizes = [(block.index, block.start, block.latents.shape[1]) for block in [*made, *rest]]
    assert sizes == [(0, 0, 1), (1, 1, 2), (2, 3, 2), (3, 5, 2), (4, 7, 2)]
    again = list(rollout(TEXT, 8, state=state, finished=[] if kv else [block.latents for block in made]))
    assert all(torch.equal(one.latents, other.latents) for one, other in zip(again, rest, strict=True))
    opening = torch.cat([made[0].latents, made[1].latents], dim=1)
    opened = list(rollout(TEXT, 8, given=opening))
    assert [(block.start, block.latents.shape[1]) for block in opened] == [size[1:] for size in sizes]
    assert torch.equal(opened[2].latents, made[2].latents)


class Steered(Wrapped):
    """Moves by the action of each frame, and by the class; records what it is given."""

    def __init__(self) -> None:
        super().__init__("flow")
        self.given: list[tuple[Any, ...]] = []

    def forward(
        self, latents: Tensor, timesteps: Tensor, condition: Condition, memory: Any, extra: Any = None
    ) -> Tensor:
        action = condition.extra["action"]
        self.given.append((action.flatten().tolist(), condition.embeds.tolist(), dict(extra)))
        text = Condition(condition.id, TEXT.embeds.to(latents))
        return super().forward(latents, timesteps, text, memory) + action[..., None, None, None].to(latents)


def test_conditions_carry_tensors_of_frames_and_only_floats_are_cast() -> None:
    network = Steered().to(torch.bfloat16)
    actions, classes = torch.arange(250, 258)[None], torch.tensor([[257]])
    condition = Condition("class 257", classes, {"action": actions, "speed": torch.tensor([[0.3]])})
    list(Rollout(network, Window(2), FewStep([1000]))(condition, 8))
    assert [each[0] for each in network.given[::2]] == [[250, 251], [252, 253], [254, 255], [256, 257]]
    assert all(each[1] == [[257]] for each in network.given)
    cast = condition.to("cpu", torch.bfloat16)
    assert (cast.embeds.dtype, cast.extra["action"].dtype) == (torch.int64, torch.int64)
    assert cast.extra["speed"].dtype == torch.bfloat16
    assert cast.of_frames(range(3, 5)).extra["speed"].shape == (1, 2)


class Timed(FewStep):
    """Tells the network of a second time."""

    def run(self, job: Job) -> Passes:
        for step in job.steps:
            x = job.noise(step, 0)
            flow = yield Pass(step, x, 1000.0, extra={"until": torch.full((1, 2), 250.0)})
            yield Finished(step, x - flow)
            yield from self.commit(step, x - flow, job.noise)


def test_what_a_sampler_adds_to_a_pass_goes_to_networks_that_take_it() -> None:
    network, condition = Steered(), Condition("", torch.zeros(1, 1), {"action": torch.zeros(1, 1)})
    list(Rollout(network, Window(2), Timed())(condition, 4))
    assert [sorted(each[2]) for each in network.given] == [["until"], [], ["until"]]
    assert len(list(Rollout(Wrapped("flow"), Window(2), Timed())(TEXT, 4))) == 2  # and others run without it


def test_steps_of_a_job_have_the_size_of_their_block() -> None:
    assert list(ModelSpec(*SIZES, first_block=1).blocks(4)) == [range(1), range(1, 3), range(3, 5)]
    assert Step(0, 0, 2, count=1).frames == range(1)
