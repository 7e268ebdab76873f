"""What a component returns is checked where it is returned, and the component is named in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rollforge.backbones.base import Backbone, Condition
from rollforge.errors import UserError
from rollforge.noise import IndependentNoise
from rollforge.policies import Window
from rollforge.rollout import Rollout
from rollforge.samplers import FewStep, Finished, Job, Pass, Passes
from rollforge.spec import ModelSpec, Phase, ReadPlan, Step

SPEC = ModelSpec(2, 4, 2, (2, 2), 1, 1, 4, 2, 6, 6, 4.0)
Change = Callable[[Any], Any]


class Toy(Backbone):
    """Attends once, and predicts a flow near its input."""

    def __init__(self, change: Change = lambda flow: flow) -> None:
        super().__init__()
        self.spec, self.change, self.gain = SPEC, change, torch.nn.Parameter(torch.ones(1))

    def forward(self, latents: Tensor, timesteps: Tensor, condition: Condition, memory: Any) -> Any:
        tokens = latents.new_ones(len(latents), latents.shape[1] * SPEC.tokens, SPEC.heads, SPEC.head_dim)
        memory.attend(0, tokens, tokens, tokens)
        return self.change(latents * self.gain)


class Wrong(FewStep):
    """Changes its requests, or ends before some frame."""

    def __init__(self, change: Change, end: int = 99) -> None:
        super().__init__([1000, 500])
        self.change, self.end = change, end

    def run(self, job: Job) -> Passes:
        running, reply = super().run(job), None
        while True:
            try:
                request = running.send(reply)
            except StopIteration:
                return
            if request.step.start >= self.end:
                return
            reply = yield self.change(request)

    def __deepcopy__(self, memo: Any) -> Wrong:
        return self


class WrongPolicy(Window):
    def __init__(self, name: str, answer: Any) -> None:
        super().__init__(2)
        self.name, self.answer = name, answer

    def live(self, start: int, block: int) -> Any:
        return self.answer if self.name == "live" else super().live(start, block)

    def visible(self, block: int) -> Any:
        return self.answer if self.name == "visible" else super().visible(block)

    def on_event(self, event: Any) -> Any:
        return self.answer if self.name == "on_event" else ()

    def plan(self, step: Step) -> Any:
        return self.answer if self.name == "plan" else super().plan(step)


class WrongNoise(IndependentNoise):
    def draw(self, seed: int, sample: int, frames: range, level: int, shape: Any) -> Tensor:
        return super().draw(seed, sample, frames, level, shape)[:, :1]


def finished(**changes: Any) -> Change:
    return lambda request: replace(request, **changes) if isinstance(request, Finished) else request


def passed(**changes: Any) -> Change:
    return lambda request: replace(request, **changes) if isinstance(request, Pass) else request


ONE = Condition("text", torch.zeros(1, 3, 4))


def roll(backbone: Any = None, policy: Any = None, sampler: Any = None, noise: Any = None, text: Any = ONE) -> None:
    rollout = Rollout(backbone or Toy(), policy or Window(2), sampler or FewStep([1000, 500]), noise or WELL)
    list(rollout(text, 8))


WELL = IndependentNoise()


def test_the_toy_rolls() -> None:
    roll()


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"backbone": Toy(lambda x: x[:, :, :1])}, r"The backbone Toy returned a float32 tensor of shape \[1, 2, 1, 4"),
        ({"backbone": Toy(lambda x: x.long())}, "The backbone Toy returned a int64 tensor"),
        ({"backbone": Toy(lambda x: (x,))}, r"The backbone Toy returned \(tensor"),
        ({"backbone": Toy(lambda x: None)}, "The backbone Toy returned None at block 0"),
        ({"backbone": Toy(lambda x: x.to("meta"))}, "The backbone Toy returned .* on meta"),
        ({"sampler": Wrong(lambda r: r, end=4)}, "The sampler Wrong ended before block 2, at frame 4 of 8"),
        ({"sampler": Wrong(finished(step=Step.of(1, 2)))}, "The sampler Wrong finished block 1 .* expected block 0"),
        ({"sampler": Wrong(finished(step=Step(0, 0, 2, count=1), latents=torch.zeros(1, 1, 2, 4, 2)))},
         "finished block 0 .frames 0 to 0.; expected block 0 .frames 0 to 1"),
        ({"sampler": Wrong(finished(latents=torch.zeros(1, 2, 2, 4, 1)))}, "The sampler Wrong returned a float32"),
        ({"sampler": Wrong(finished(latents=torch.zeros(2, 2, 2, 4, 2)))}, r"expected floats of shape \[1, 2, 2, 4, 2"),
        ({"sampler": Wrong(passed(latents=torch.zeros(1, 3, 2, 4, 2)))}, "for frames 0 to 1; expected floats"),
        ({"sampler": Wrong(passed(timestep=1500.0))}, "The sampler Wrong returned 1500.0 as a timestep"),
        ({"sampler": Wrong(passed(timestep=torch.zeros(1, 3)))}, "as a timestep for frames 0 to 1"),
        ({"sampler": Wrong(passed(guidance_branch="other"))}, "Wrong returned 'other' as a guidance branch"),
        ({"sampler": Wrong(passed(plan=3))}, "The sampler Wrong returned 3 as a plan"),
        ({"sampler": Wrong(lambda request: 7)}, "The sampler Wrong returned 7 at block 0; expected a Pass"),
        ({"noise": WrongNoise()}, "The noise prior WrongNoise returned .* at block 0, level 0; expected floats"),
        ({"policy": WrongPolicy("live", [0, 1])}, r"The cache policy WrongPolicy returned \[0, 1\] from live"),
        ({"policy": WrongPolicy("live", {0.5})}, "expected a set of whole numbers"),
        ({"policy": WrongPolicy("visible", -1)}, "The cache policy WrongPolicy returned -1 from visible"),
        ({"policy": WrongPolicy("visible", None)}, "The cache policy WrongPolicy returned None from visible"),
        ({"policy": WrongPolicy("plan", 4)}, "The cache policy WrongPolicy answered 4 for its plan"),
        ({"policy": WrongPolicy("on_event", [3]), "text": {0: ONE, 4: ONE}}, "returned 3 from on_event"),
        ({"policy": WrongPolicy("on_event", range(2)), "text": {0: ONE, 4: ONE}}, "a sequence of ranges"),
        ({"text": torch.zeros(1)}, "a Condition with a tensor of features"),
        ({"text": Condition(3, torch.zeros(1, 1))}, "returned 3 as the id of a Condition"),  # type: ignore[arg-type]
        ({"text": Condition("", torch.zeros(1, 1), {"action": torch.zeros(2, 8)})}, "as action .* with 1 rows"),
        ({"text": Condition("", torch.zeros(1, 1), {"action": torch.zeros(1, 7)})}, "with 8 frames or more"),
    ],
)  # fmt: skip
def test_a_wrong_answer_names_its_component(parts: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        roll(**parts)
    assert "\n" not in str(error.value)
    assert "Traceback" not in str(error.value)


def test_a_block_more_than_asked_for_is_an_error() -> None:
    class Eager(FewStep):
        def run(self, job: Job) -> Passes:
            yield from super().run(job)
            yield Finished(Step.of(4, 2), torch.zeros(1, 2, 2, 4, 2))

    with pytest.raises(UserError, match="returned 'block 4' at the end; expected no more than 8 frames"):
        roll(sampler=Eager([1000, 500]))


def test_a_pass_may_be_of_any_phase_and_read_a_plan_of_its_own() -> None:
    roll(sampler=Wrong(passed(plan=ReadPlan((), 0))))
    with pytest.raises(UserError, match="as a phase"):
        roll(sampler=Wrong(passed(step=replace(Step.of(0, 2), phase="denoise"))))
    assert Phase.ESTIMATE.writes
    assert not Phase.ESTIMATE.final
