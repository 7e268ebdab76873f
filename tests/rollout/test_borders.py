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
from rollforge.memory import BlendBranches, IdentityKVCodec, RolloutMemory, Sdpa
from rollforge.noise import IndependentNoise
from rollforge.policies import SlidingIndices, Window
from rollforge.positions import Rope
from rollforge.rollout import Rollout
from rollforge.samplers import FewStep, Finished, Job, Pass, Passes
from rollforge.spec import ModelSpec, Phase, ReadPlan, Segment, Step, Virtual

SPEC = ModelSpec(2, 4, 2, (2, 2), 1, 1, 4, 2, 6, 6, 4.0)
Change = Callable[[Any], Any]


class Toy(Backbone):
    """Attends once, and predicts a flow near its input."""

    def __init__(self, change: Change = lambda flow: flow) -> None:
        super().__init__()
        self.spec, self.change, self.gain = SPEC, change, torch.nn.Parameter(torch.ones(1))

    def forward(self, latents: Tensor, timesteps: Tensor, condition: Condition, memory: Any) -> Any:
        tokens = latents.new_ones(len(latents), latents.shape[1] * SPEC.tokens, SPEC.heads, SPEC.head_dim)
        memory.attend(*self.attended([0, tokens, tokens, tokens]))
        return self.change(latents * self.gain)

    def attended(self, given: list[Any]) -> list[Any]:
        """The arguments of ``attend``."""
        return given


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


def attending(change: Change) -> Toy:
    """A network that attends with other arguments."""
    return type("Wrong", (Toy,), {"attended": lambda self, given: change(given)})()


def broken(base: type, *arguments: Any, **members: Any) -> Any:
    """A component with other attributes and methods."""
    return type("Wrong", (base,), members)(*arguments)


def changed(base: type, method: str, change: Change, *arguments: Any) -> Any:
    """A component whose method returns something else."""
    return broken(base, *arguments, **{method: lambda self, *given: change(getattr(base, method)(self, *given))})


class Twice(SlidingIndices):
    """Reads all frames in two branches, and moves them."""

    branches = 2

    def plan(self, step: Step) -> ReadPlan:
        plan = super().plan(step)
        return ReadPlan((*plan.segments, *(replace(run, branch=1) for run in plan.segments)), plan.query)

    def visible(self, block: int) -> int:
        return 2 * super().visible(block)


def planning(*segments: Any, query: Any = 0) -> dict[str, Any]:
    return {"policy": broken(Window, 2, plan=lambda self, step: ReadPlan(segments, query))}


def making(answer: Any) -> dict[str, Any]:
    """A policy with that answer for virtual frames, as soon as there are frames."""
    return {"policy": broken(Window, 2, virtual=lambda self, step: answer() if step.start else ())}


def finished(**changes: Any) -> Change:
    return lambda request: replace(request, **changes) if isinstance(request, Finished) else request


def passed(**changes: Any) -> Change:
    return lambda request: replace(request, **changes) if isinstance(request, Pass) else request


ONE = Condition("text", torch.zeros(1, 3, 4))


def roll(
    backbone: Any = None, policy: Any = None, sampler: Any = None, noise: Any = None, text: Any = ONE, **more: Any
) -> None:  # fmt: skip
    rollout = Rollout(backbone or Toy(), policy or Window(2), sampler or FewStep([1000, 500]), noise or WELL, **more)
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
        ({"policy": WrongPolicy("plan", 4)}, "The cache policy WrongPolicy returned 4 as the plan of block 0"),
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


NAN = float("nan")
MOVING = SlidingIndices(2, 1)


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"backbone": attending(lambda given: [5, *given[1:]])}, "Wrong raised ValueError .* called for layer 5"),
        ({"backbone": attending(lambda given: [*given[:2], given[2][:, 1:], given[3]])}, "Wrong .*keys and values of"),
        ({"backbone": attending(lambda given: [*given[:3], given[3][..., :2]])}, "Wrong .* keys and values of"),
        ({"backbone": attending(lambda given: [0, *(each[:, 1:] for each in given[1:])])}, "Wrong .* queries of shape"),
        ({"backbone": attending(lambda given: [0, *(each.repeat(1, 1, 2, 1) for each in given[1:])])}, "queries of"),
        ({"backbone": broken(Toy, spec=None, __init__=lambda self: Backbone.__init__(self))}, "as its attribute spec"),
        ({"sampler": broken(FewStep, [1000], in_flight=0)}, "Wrong returned 0 as its attribute in_flight"),
        ({"sampler": broken(FewStep, [1000], passes=lambda self, block: 2.5)}, "Wrong returned 2.5 from passes"),
        ({"sampler": broken(FewStep, [1000], __deepcopy__=lambda self, memo: None)}, "Wrong returned None as a copy"),
        ({"sampler": Wrong(passed(latents=torch.zeros(1, 2, 2, 4, 2).double()))}, "expected torch.float32"),
        ({"sampler": Wrong(passed(step=Step(-1, -2, 2)))}, "as a step; expected one with frames from 0 on"),
        ({"sampler": Wrong(passed(extra={"time": 1}))}, "as extra for frames 0 to 1; expected a dict"),
        ({"noise": changed(IndependentNoise, "draw", lambda drawn: drawn.double())}, "prior Wrong returned a float64"),
        ({"noise": changed(IndependentNoise, "draw", lambda drawn: drawn.to("meta"))}, "prior Wrong returned .* meta"),
        ({"policy": broken(Window, 2, observes=3)}, "policy Wrong returned 3 as its attribute observes"),
        ({"policy": broken(Window, 2, sees="k")}, "policy Wrong returned 'k' as its attribute sees"),
        ({"policy": broken(Window, 2, branches=None)}, "policy Wrong returned None as its attribute branches"),
        ({"policy": broken(Window, 2, on_commit=lambda self, step: [range(10**9)])}, "Wrong requests to read frame"),
        (planning((0, 0)), r"policy Wrong returned \(0, 0\) in the segments as the plan of block 0"),
        (planning(query=NAN), "policy Wrong returned nan as query as the plan of block 0"),
        (planning(Segment(0, 0, -1)), "policy Wrong returned Segment"),
        (planning(Segment(0, 0, 1, bias="1")), "policy Wrong returned Segment"),  # type: ignore[arg-type]
        (planning(Segment(0, 0, 1, layers=3)), "policy Wrong returned Segment"),  # type: ignore[arg-type]
        (making(lambda: [1]), "policy Wrong returned 1 from virtual; expected a sequence of Virtual"),
        (making(lambda: [Virtual(3, (0,))]), "policy Wrong raised ValueError asked for virtual frames at block 1"),
        (making(lambda: [Virtual(-1, (0,), make=lambda *given: None)]), "Wrong cannot be followed .* returned None"),
        ({"positions": changed(Rope, "place", lambda placed: [placed] * 5)}, "positions Wrong returned .* placement"),
        ({"positions": changed(Rope, "place", lambda placed: "abc")}, "positions Wrong returned 'abc' as a placement"),
        ({"positions": changed(Rope, "turn", lambda x: x[:, 1:])}, "positions Wrong returned .* from turn"),
        ({"positions": changed(Rope, "turn", lambda x: x.double())}, "positions Wrong returned a float64 tensor"),
        ({"positions": changed(Rope, "key", lambda key: torch.zeros(2))}, "positions Wrong returned .* from key"),
        ({"memory": lambda *given: None}, "returned None for a rollout; expected an object of class CachedMemory"),
        ({"memory": type("Wrong", (RolloutMemory,), {"begin": lambda *given: 1 / 0})}, "memory Wrong raised ZeroDiv"),
        ({"memory": type("Wrong", (RolloutMemory,), {"end": lambda *given: 1 / 0})}, "memory Wrong raised ZeroDiv"),
        ({"kv_codec": changed(IdentityKVCodec, "decode", lambda pair: pair[0])}, "KV codec Wrong returned"),
        ({"kv_codec": changed(IdentityKVCodec, "decode", lambda pair: (pair[0][:, 1:], pair[1]))}, "Wrong returned"),
        ({"kv_codec": changed(IdentityKVCodec, "decode", lambda pair: (pair[0].double(), pair[1]))}, "float32"),
        ({"attention": changed(Sdpa, "__call__", lambda made: made.flatten(2))}, "attention Wrong returned"),
        ({"attention": changed(Sdpa, "__call__", lambda made: (made, None))}, "attention Wrong returned"),
        ({"attention": changed(Sdpa, "__call__", lambda made: made.double())}, "attention Wrong returned a float64"),
        ({"attention": broken(Sdpa, check=lambda *given: 1 / 0)}, "attention Wrong raised ZeroDivisionError"),
        ({"combine": changed(BlendBranches, "__call__", lambda made: made[:, 1:], 0.5), "policy": Twice(2, 1)},
         "combine Wrong returned"),
        ({"combine": changed(BlendBranches, "__call__", lambda made: None, 0.5), "policy": Twice(2, 1)},
         "combine Wrong returned None in layer 0"),
        ({"text": Condition("", torch.zeros(1, 1), [1])}, "as extra of a Condition"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_what_components_say_and_compute_is_checked_too(parts: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        roll(**({"policy": MOVING} | parts))
    assert "\n" not in str(error.value)


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
