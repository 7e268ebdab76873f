"""For each rule of the kit a part that breaks it, and nothing else before it: no check can never fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rollforge import testing
from rollforge.backbones.base import Backbone, Condition, Conditioner, DecodeStream, VideoCodec
from rollforge.finish import Finish, FinishStream
from rollforge.memory import Attention, Combine, IdentityKVCodec, RolloutMemory, Sdpa
from rollforge.memory.base import Memory
from rollforge.metrics import DIS, Metric
from rollforge.noise import IndependentNoise
from rollforge.objectives import DMD, Match, Matched, Objective
from rollforge.policies import AttentionSink, CachePolicy, Window
from rollforge.positions import Rope
from rollforge.samplers import Finished, Pass
from rollforge.samplers.few_step import FewStep
from rollforge.spec import ModelSpec, Phase, ReadPlan, Step, Virtual

SHARED: list[Any] = []
DOCS = Path(__file__).parents[2] / "docs" / "plugins.md"


class Counting(Window):
    """Its plan changes its state."""

    def plan(self, step: Step) -> ReadPlan:
        self.asked = getattr(self, "asked", 0) + 1
        return super().plan(step)


class Tight(AttentionSink):
    def visible(self, block: int) -> int:
        return self.context_blocks * block - 1


class Forgetful(Window):
    """Reads frames again that it has let go."""

    def live(self, start: int, block: int) -> frozenset[int]:
        return super().live(start, block) if start // block % 7 else frozenset(range(start))


class Wide(Window):
    def revisited(self, start: int, block: int) -> frozenset[int]:
        return frozenset(range(start))

    moves = revisited


class Stuck(Window):
    """Says that no frame moves, and moves them."""

    def plan(self, step: Step) -> ReadPlan:
        seen = sorted(self.live(step.start, step.block))
        return ReadPlan.of(((frame, time) for time, frame in enumerate(seen)), len(seen))


class Two(Window):
    """A copy is another policy."""

    def __deepcopy__(self, memo: Any) -> Window:
        return Window(1)


class Crowded(Window):
    """Sees less when others roll too."""

    def on_commit(self, step: Step) -> None:
        SHARED[:] = [step.start] if step.start == 0 else [*SHARED, step.start]

    def plan(self, step: Step) -> ReadPlan:
        alone = SHARED[-1:] != SHARED[-2:-1]
        return super().plan(step) if alone else ReadPlan((), step.start)


class Moody(Window):
    """Is another policy in every other rollout."""

    def on_commit(self, step: Step) -> None: ...

    def __deepcopy__(self, memo: Any) -> Window:
        SHARED.append(0)
        return Moody(1 + len(SHARED) % 2)


class Amnesiac(Window):
    """Leaves out of its state what its plans depend on."""

    def __init__(self) -> None:
        super().__init__(2)
        self.narrow = False

    def on_commit(self, step: Step) -> None:
        self.narrow = step.index == 2 or self.narrow

    def plan(self, step: Step) -> ReadPlan:
        return ReadPlan((), step.start) if self.narrow else super().plan(step)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Unfounded(Window):
    """Makes virtual frames from frames that it has let go."""

    def virtual(self, step: Step) -> Sequence[Virtual]:
        return [Virtual(-1, (0,))] if step.index > 4 else []


class Unheard(Window):
    """Observes, and does not say what."""

    def observe(self, step: Step, layer: int | None, seen: Any) -> None: ...


class Uncounted(Window):
    """Counts what it does not restore, and what no plan depends on."""

    count = 0

    def on_commit(self, step: Step) -> None:
        self.count += 1

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Sampled(FewStep):
    """A sampler to be broken: two steps."""

    def __init__(self) -> None:
        super().__init__(timesteps=(1000, 500), shift=1.0)


class Hot(Sampled):
    def run(self, job: Any) -> Any:
        step = next(iter(job.steps))
        yield Pass(step, job.noise(step, 0), 1001.0)


class Skipping(Sampled):
    """Finishes every other block only."""

    def run(self, job: Any) -> Any:
        return super().run(replace(job, steps=(step for step in job.steps if step.index % 2 == 0)))


class Uncommitted(Sampled):
    def commit(self, step: Step, clean: Tensor, noise: Any) -> Any:
        return iter(()) if step.index == 2 else super().commit(step, clean, noise)


class Repeating(Sampled):
    def run(self, job: Any) -> Any:
        return super().run(replace(job, noise=lambda step, level: job.noise(step, 0)))


class Mixing(Sampled):
    """Gives each sample the mean of the batch."""

    def run(self, job: Any) -> Any:
        for step in job.steps:
            flow = yield Pass(step, job.noise(step, 0), 1000.0)
            clean = (job.noise(step, 1) - flow).mean(dim=0, keepdim=True).expand_as(flow)
            yield Finished(step, clean)
            yield from self.commit(step, clean, job.noise)


class Carrying(Sampled):
    """Carries something from block to block, in one place for all rollouts."""

    def run(self, job: Any) -> Any:
        for step in job.steps:
            flow = yield Pass(step, job.noise(step, 0), 1000.0)
            clean = job.noise(step, 1) - flow + self.before(step)
            self.after(0.1 * clean.mean(dim=(1, 2, 3, 4), keepdim=True))
            yield Finished(step, clean)
            yield from self.commit(step, clean, job.noise)

    def before(self, step: Step) -> Any:
        return SHARED[-1] if SHARED and step.index else 0

    def after(self, mean: Tensor) -> None:
        SHARED.append(mean)


class Losing(Carrying):
    """Its state is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.last: Any = 0

    def before(self, step: Step) -> Any:
        return self.last

    def after(self, mean: Tensor) -> None:
        self.last = mean

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Piling(Sampled):
    """Is another sampler once a block was refused."""

    def dropped(self, step: Step) -> None:
        SHARED.append(step)

    def run(self, job: Any) -> Any:
        return super().run(replace(job, noise=lambda step, level: job.noise(step, level) * (1 + len(SHARED))))


class Net(Backbone):
    """A sound network: one layer of attention over pixels as tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = "random"
        self.project = nn.Linear(4, 3 * 8)
        self.out = nn.Linear(8, 4)
        self.calls = 0
        self.spec = ModelSpec(
            channels=4, height=2, width=2, patch=(1, 1), layers=1, heads=2, head_dim=4, block=3, window=9, horizon=9,
            fps=8.0,
        )  # fmt: skip

    def forward(self, latents: Tensor, timesteps: Tensor, condition: Condition, memory: Memory) -> Tensor:
        x = latents.permute(0, 1, 3, 4, 2) + timesteps[..., None, None, None].to(latents.dtype) / 1000
        q, k, v = self.project(x.flatten(1, 3)).unflatten(-1, (3, 2, 4)).unbind(2)
        seen = self.attend(memory, q, k, v).flatten(2)
        text = condition.embeds.mean(dim=(1, 2))[:, None, None]
        return self.flow(self.out(seen + text).unflatten(1, x.shape[1:4]).permute(0, 1, 4, 2, 3))

    def attend(self, memory: Memory, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return memory.attend(0, q, k, v)

    def flow(self, flow: Tensor) -> Tensor:
        return flow


def net(**methods: Any) -> Net:
    """A network with other methods."""
    torch.manual_seed(0)
    return type("Broken", (Net,), methods)()


def narrow(self: Net, flow: Tensor) -> Tensor:
    return flow.mean(dim=2, keepdim=True)


def second_layer(self: Net, memory: Memory, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return memory.attend(1, q, k, v)


def later(self: Net, flow: Tensor) -> Tensor:
    self.calls += 1
    return flow * self.calls


def mixed(self: Net, flow: Tensor) -> Tensor:
    return flow + flow.mean(dim=0, keepdim=True)


def looking_ahead(self: Net, flow: Tensor) -> Tensor:
    return flow + flow.mean(dim=1, keepdim=True)


class Detaching(torch.autograd.Function):
    """Has another gradient every time."""

    count = 0

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        Detaching.count += 1
        return gradient * Detaching.count


def unsteady(self: Net, flow: Tensor) -> Tensor:
    return Detaching.apply(flow)


class Hidden(Net):
    """Keeps a weight where state_dict does not look."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__()
        self.register_buffer("scale", torch.full((), 2.0), persistent=False)

    def flow(self, flow: Tensor) -> Tensor:
        return flow * self.scale


class Staying(Net):
    """Keeps a tensor that does not move with it."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__()
        self.scale = torch.ones(4, 1, 1)

    def flow(self, flow: Tensor) -> Tensor:
        return torch.cat([flow, self.scale.expand(*flow.shape)], dim=2)[:, :, :4]


class Single(Net):
    def flow(self, flow: Tensor) -> Tensor:
        return flow @ torch.eye(2, device=flow.device)


class Undeclared(Net):
    def __init__(self) -> None:
        super().__init__()
        del self.weights


class Codec(VideoCodec):
    """A sound codec: three of the channels, four pixels to the latent, and a memory of one frame."""

    high = 1.0

    def encode(self, video: Tensor) -> Tensor:
        small = video.detach()[..., ::4, ::4]
        return torch.cat([small, small[:, :, :1]], dim=2)

    def stream(self) -> DecodeStream:
        return Stream(self)

    def pixel_frames(self, latent_frames: int) -> int:
        return latent_frames

    def pixel_size(self, width: int, height: int) -> tuple[int, int]:
        return 4 * width, 4 * height


class Stream(DecodeStream):
    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.last: Tensor | None = None

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        last = latents[:, :1] * 0 if self.last is None else self.last
        blurred = latents + torch.cat([last, latents[:, :-1]], dim=1)
        self.last = latents[:, -1:]
        pixels = blurred[:, :, :3].sigmoid().repeat_interleave(4, 3).repeat_interleave(4, 4)
        return pixels * self.codec.high

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.last = state["last"]


class Trailing(FinishStream):
    """A sound stage: each frame is mixed with the one before."""

    last: Tensor | None = None

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> Tensor:
        last = frames[:, :1] if self.last is None else self.last
        self.last = frames[:, -1:].clone()
        return (frames + torch.cat([last, frames[:, :-1]], dim=1)) / 2

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.last = state["last"]


class Ahead(Trailing):
    """Mixes each frame with the next one of its block."""

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> Tensor:
        return (super().__call__(frames) + torch.cat([frames[:, 1:], frames[:, -1:]], dim=1)) / 2


class Bright(Trailing):
    def __call__(self, frames: Tensor) -> Tensor:
        return super().__call__(frames) * 1.5


class Blackening(Trailing):
    def __call__(self, frames: Tensor) -> Tensor:
        return super().__call__(frames.detach().mul_(0.5))


class Meeting(Trailing):
    """Mixes the samples of a batch."""

    def __call__(self, frames: Tensor) -> Tensor:
        return super().__call__((frames + frames.mean(dim=0, keepdim=True)) / 2)


class Dropping(Trailing):
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        return


class Stage(Finish):
    """A stage with a stream of any kind."""

    def __init__(self, kind: type[Trailing] = Trailing, **own: Any) -> None:
        super().__init__()
        self.kind = kind
        for name, value in own.items():
            setattr(self, name, value)

    def stream(self) -> FinishStream:
        return self.kind()


class Untrained(Stage):
    """Its loss has no gradient for its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def loss(self, decoded: Tensor, frames: Tensor) -> dict[str, Tensor]:
        return {"loss": (decoded - frames).requires_grad_(True).square().mean()}


class OneStage(Stage):
    """All videos share one stream."""

    def __init__(self) -> None:
        super().__init__()
        self.one = Trailing()

    def stream(self) -> FinishStream:
        self.one.last = None
        return self.one


class Fresh(Stream):
    """Starts over with every piece."""

    def __call__(self, latents: Tensor) -> Tensor:
        self.last = None
        return super().__call__(latents)


class Sociable(Stream):
    """Mixes the samples of a batch."""

    def __call__(self, latents: Tensor) -> Tensor:
        return super().__call__(latents + latents.mean(dim=0, keepdim=True))


class OneForAll(Codec):
    """Has one state for all streams."""

    def stream(self) -> DecodeStream:
        self.state: dict[str, Any] = {"codec": self, "last": None}
        made = Stream(self)
        made.__dict__ = self.state
        self.streams = [*getattr(self, "streams", []), made]
        for each in self.streams:
            each.__dict__ = self.state
        return made


class Stateless(Stream):
    def state_dict(self) -> dict[str, Any]:
        return {"last": None}


def codec(stream: type[Stream], **attributes: Any) -> Codec:
    """A codec with another stream."""
    return type("Broken", (Codec,), {"stream": lambda self: stream(self), **attributes})()


class Noise(IndependentNoise):
    def draw(self, seed: int, sample: int, frames: range, level: int, shape: Any) -> Tensor:
        return self.changed(super().draw(seed, sample, frames, level, shape))

    def changed(self, drawn: Tensor) -> Tensor:
        return drawn


class Double(Noise):
    def changed(self, drawn: Tensor) -> Tensor:
        return drawn.double()


class Global(Noise):
    def changed(self, drawn: Tensor) -> Tensor:
        return drawn + torch.randn(())


class Loud(Noise):
    def changed(self, drawn: Tensor) -> Tensor:
        return 2 * drawn


class Same(IndependentNoise):
    def draw(self, seed: int, sample: int, frames: range, level: int, shape: Any) -> Tensor:
        return super().draw(0, 0, frames, level, shape)


class Flat(IdentityKVCodec):
    def decode(self, kept: Any) -> tuple[Tensor, Tensor]:
        return kept[0].float(), kept[1].flatten(2)


class Rounding(IdentityKVCodec):
    def encode(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return k.round(), v.round()


class Wrapped(IdentityKVCodec):
    def encode(self, k: Tensor, v: Tensor) -> Any:
        return k.clone(), v.clone(), object()

    def decode(self, kept: Any) -> tuple[Tensor, Tensor]:
        return kept[0], kept[1]


class Spending(IdentityKVCodec):
    def decode(self, kept: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        k, v = kept
        return k.neg_().neg(), v


class Shrinking(IdentityKVCodec):
    """Keeps as much as the largest value of the batch allows."""

    def encode(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return k * (1 + 1e-3 * k.abs().max()), v.clone()


class Mean(Metric):
    """A sound metric: the mean of a frame, and its distance from the frame before."""

    def start(self, prompt: str, fps: float, blocks: Any = None) -> None:
        self.last, self.frames = torch.nan, 0

    def update(self, frames: Tensor, start: int) -> dict[str, Tensor]:
        mean = frames.float().mean(dim=(1, 2, 3))
        before = torch.cat([torch.tensor([self.last]), mean[:-1]])
        self.last, self.frames = float(mean[-1]), self.frames + len(frames)
        return {"mean": mean, "change": mean - before}

    def finish(self) -> dict[str, float]:
        return {"frames": float(self.frames)}


class Still(DIS):
    """Finds a motion where there is none."""

    def between(self, before: Tensor, after: Tensor) -> Tensor:
        return super().between(before, after) + float(torch.equal(before, after))


class Swapped(DIS):
    """Returns rows before columns."""

    def between(self, before: Tensor, after: Tensor) -> Tensor:
        return super().between(before, after).flip(2)


class Coarse(DIS):
    def between(self, before: Tensor, after: Tensor) -> Tensor:
        return super().between(before, after)[::2, ::2]


class Tracking(DIS):
    """Remembers the last pair."""

    asked = 0

    def between(self, before: Tensor, after: Tensor) -> Tensor:
        self.asked += 1
        return super().between(before, after) + self.asked / 1000


class Short(Mean):
    def update(self, frames: Tensor, start: int) -> dict[str, Tensor]:
        return {name: curve[:1] for name, curve in super().update(frames, start).items()}


class Painting(Mean):
    def update(self, frames: Tensor, start: int) -> dict[str, Tensor]:
        return super().update(frames.zero_(), start)


class Texts(Mean):
    def finish(self) -> dict[str, Any]:
        return {"frames": "many"}


class Chunky(Mean):
    def update(self, frames: Tensor, start: int) -> dict[str, Tensor]:
        return {"mean": frames.float().mean().expand(len(frames))}


class Tired(Mean):
    def start(self, prompt: str, fps: float, blocks: Any = None) -> None:
        if not hasattr(self, "last"):
            super().start(prompt, fps, blocks)


class Unsaved(Mean):
    def state_dict(self) -> dict[str, Any]:
        return {}


class Text(Conditioner):
    """A sound conditioner: letters as numbers."""

    def forward(self, prompts: Sequence[str]) -> Condition:
        rows = [[float(ord(letter)) for letter in f"{prompt:40.40}"] for prompt in prompts]
        return Condition(self.name(prompts), self.features(torch.tensor(rows)[..., None]))

    def name(self, prompts: Sequence[str]) -> str:
        return repr(list(prompts))

    def features(self, rows: Tensor) -> Tensor:
        return rows


class Merged(Text):
    def features(self, rows: Tensor) -> Tensor:
        return rows[:1]


class Nameless(Text):
    def name(self, prompts: Sequence[str]) -> str:
        return "text"


class Relative(Text):
    def features(self, rows: Tensor) -> Tensor:
        return rows - rows.mean(dim=0, keepdim=True)


class Picky(Text):
    def check(self, prompts: Sequence[str]) -> None:
        raise ValueError("no")


class Unnamed(Objective):
    def __call__(self, pipeline: Any, clips: Any) -> dict[str, Tensor]:
        return {"mse": pipeline.encode(clips["video"]).square().mean()}


class Detached(Objective):
    def __call__(self, pipeline: Any, clips: Any) -> dict[str, Tensor]:
        return {"loss": pipeline.encode(clips["video"]).square().mean().requires_grad_(True)}


class Endless(DMD):
    def student(self, match: Match, video: Tensor) -> Matched:
        return Matched(super().student(match, video).loss / 0)


class Unmoved(DMD):
    def student(self, match: Match, video: Tensor) -> Matched:
        return Matched(super().student(match, video.detach()).loss + 0 * video.sum())


class Untaught(DMD):
    def train_critic(self, match: Match, video: Tensor) -> Matched:
        return Matched(0 * super().train_critic(match, video).loss)


class Random:
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"video": torch.randint(0, 256, (3, 8, 8, 3), dtype=torch.uint8), "caption": ""}


class Together(Rope):
    """Counts times from the mean of those that are asked for."""

    def place(self, spec: Any, times: Any, step: Any = None, plan: Any = None) -> Any:
        return super().place(spec, [time - sum(times) / len(times) for time in times], step, plan)


class Keyless(Rope):
    """Depends on the block and says that it does not."""

    def temporal(self, spec: Any, step: Any = None) -> Tensor:
        return super().temporal(spec, step) * (1 + (step.index if step else 0))

    def key(self, spec: Any, step: Any, plan: Any) -> Any:
        return None


def turning(turn: Callable[[Tensor, Any], Tensor]) -> Rope:
    """Positions that turn otherwise."""
    return type("Broken", (Rope,), {"turn": lambda self, x, placed: turn(x, placed)})()


def joining(join: Callable[[Sequence[Tensor]], Tensor]) -> Combine:
    """What joins branches otherwise."""
    return type("Broken", (Combine,), {"__call__": lambda self, outputs, *more: join(outputs)})()


def attending(change: Callable[..., Tensor]) -> Attention:
    """Attention that calls torch's otherwise; ``change`` gets a function for it, then the arguments."""
    return type("Broken", (Sdpa,), {"__call__": lambda self, *given: change(Sdpa(), *given)})()


class Blind(RolloutMemory):
    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, *more: Any, **named: Any) -> Tensor:
        return super().attend(layer, q, k, v, *more, **named) + 0.01


class Empty(RolloutMemory):
    def state_dict(self) -> Any:
        return RolloutMemory(self.spec, self.visible).state_dict()


class Unbiased(RolloutMemory):
    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, *more: Any, **named: Any) -> Tensor:
        return super().attend(layer, q, k, v)


class Undivided(RolloutMemory):
    """Every layer reads every segment."""

    def begin(self, step: Step, plan: ReadPlan) -> None:
        super().begin(step, replace(plan, segments=tuple(replace(run, layers=None) for run in plan.segments)))


class Ungrouped(RolloutMemory):
    """Gives the keys to the first query heads alone."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, *more: Any, **named: Any) -> Tensor:
        q = torch.cat([q[:, :, : k.shape[2]], torch.zeros_like(q[:, :, k.shape[2] :])], dim=2)
        return super().attend(layer, q, k, v, *more, **named)


class Unmixed(RolloutMemory):
    """Makes virtual frames from their last source."""

    def make(self, block: int, virtual: Sequence[Virtual]) -> None:
        super().make(block, [Virtual(each.frame, each.of[-1:]) for each in virtual])


class Obliging(RolloutMemory):
    def begin(self, step: Step, plan: ReadPlan) -> None:
        try:
            super().begin(step, plan)
        except ValueError:
            super().begin(step, ReadPlan((), plan.query))


Check = Callable[[Any], None]
TWO = Condition("two", torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1)))


def policy(part: CachePolicy, **options: Any) -> None:
    testing.check_policy(part, blocks=40, **options)


def backbone(part: Net, **options: Any) -> None:
    testing.check_backbone(part, TWO, **options)


def cut(part: Codec) -> None:
    testing.check_codec(part, 4)


BROKEN: dict[str, tuple[Check, Callable[[], Any]]] = {
    "policy-pure": (policy, lambda: Counting(2)),
    "policy-bound": (policy, lambda: Tight(2, 1)),
    "policy-live": (policy, lambda: Forgetful(2)),
    "policy-moves": (policy, lambda: Wide(2)),
    "policy-plan": (lambda part: testing.check_plans(part, lambda step: ((), step.start)), lambda: Window(2)),
    "policy-rollout": (policy, lambda: type("Still", (Stuck,), {"revisited": nothing, "moves": nothing})(2)),
    "policy-phase": (policy, lambda: Two(2)),
    "policy-batch": (policy, lambda: Moody(2)),
    "policy-separate": (policy, lambda: Crowded(2)),
    "policy-resume": (policy, Amnesiac),
    "policy-virtual": (policy, lambda: Unfounded(2)),
    "policy-observe": (policy, lambda: Unheard(2)),
    "policy-state": (policy, lambda: Uncounted(2)),
    "policy-shift": (lambda part: policy(part, same_as=Window(2)), lambda: Window(1)),
    "sampler-requests": (testing.check_sampler, Hot),
    "sampler-order": (testing.check_sampler, Skipping),
    "sampler-commit": (testing.check_sampler, Uncommitted),
    "sampler-noise": (testing.check_sampler, Repeating),
    "sampler-batch": (testing.check_sampler, Mixing),
    "sampler-separate": (testing.check_sampler, Carrying),
    "sampler-resume": (testing.check_sampler, Losing),
    "sampler-again": (testing.check_sampler, Piling),
    "backbone-flow": (backbone, lambda: net(flow=narrow)),
    "backbone-attend": (backbone, lambda: net(attend=second_layer)),
    "backbone-repeat": (backbone, lambda: net(flow=later)),
    "backbone-batch": (backbone, lambda: net(flow=mixed)),
    "backbone-cache": (backbone, lambda: net(flow=looking_ahead)),
    "backbone-reference": (lambda part: backbone(part, reference=lambda x, t, c: x), net),
    "backbone-checkpointing": (backbone, lambda: net(flow=unsteady)),
    "backbone-state-dict": (backbone, Hidden),
    "backbone-device": (backbone, Staying),
    "backbone-dtype": (backbone, Single),
    "backbone-weights": (backbone, Undeclared),
    "codec-size": (cut, lambda: codec(Stream, pixel_frames=lambda self, frames: 2 * frames)),
    "codec-range": (cut, lambda: codec(Stream, high=1.5)),
    "codec-stream": (cut, lambda: codec(Fresh)),
    "codec-batch": (cut, lambda: codec(Sociable)),
    "codec-separate": (cut, OneForAll),
    "codec-resume": (cut, lambda: codec(Stateless)),
    "finish-size": (testing.check_finish, lambda: Stage(pixel_size=lambda width, height: (2 * width, height))),
    "finish-range": (testing.check_finish, lambda: Stage(Bright)),
    "finish-repeat": (testing.check_finish, lambda: Stage(Blackening)),
    "finish-stream": (testing.check_finish, lambda: Stage(Ahead)),
    "finish-batch": (testing.check_finish, lambda: Stage(Meeting)),
    "finish-separate": (testing.check_finish, OneStage),
    "finish-resume": (testing.check_finish, lambda: Stage(Dropping)),
    "finish-loss": (testing.check_finish, Untrained),
    "noise-shape": (testing.check_noise, Double),
    "noise-address": (testing.check_noise, Global),
    "noise-scale": (testing.check_noise, Loud),
    "noise-seed": (testing.check_noise, Same),
    "kv-shape": (testing.check_kv_codec, Flat),
    "kv-error": (testing.check_kv_codec, Rounding),
    "kv-plain": (testing.check_kv_codec, Wrapped),
    "kv-again": (testing.check_kv_codec, Spending),
    "kv-batch": (lambda part: testing.check_kv_codec(part, tolerance=0.1), Shrinking),
    "metric-curve": (testing.check_metric, Short),
    "metric-input": (testing.check_metric, Painting),
    "metric-figures": (testing.check_metric, Texts),
    "metric-split": (testing.check_metric, Chunky),
    "metric-again": (testing.check_metric, Tired),
    "metric-resume": (testing.check_metric, Unsaved),
    "flow-field": (testing.check_flow, Coarse),
    "flow-repeat": (testing.check_flow, Tracking),
    "flow-still": (testing.check_flow, Still),
    "flow-moved": (testing.check_flow, Swapped),
    "conditioner-rows": (testing.check_conditioner, Merged),
    "conditioner-id": (testing.check_conditioner, Nameless),
    "conditioner-batch": (testing.check_conditioner, Relative),
    "conditioner-check": (testing.check_conditioner, Picky),
    "objective-loss": (testing.check_objective, Unnamed),
    "objective-gradient": (testing.check_objective, Detached),
    "matching-loss": (testing.check_matching, Endless),
    "matching-student": (testing.check_matching, Unmoved),
    "matching-critic": (testing.check_matching, Untaught),
    "dataset-clip": (testing.check_dataset, lambda: [{"video": torch.zeros(9, 3, 8, 8), "caption": ""}]),
    "dataset-repeat": (testing.check_dataset, Random),
    "positions-repeat": (testing.check_positions, lambda: turning(lambda x, placed: x.neg_())),
    "positions-shape": (testing.check_positions, lambda: turning(lambda x, placed: x.double())),
    "positions-frame": (testing.check_positions, Together),
    "positions-key": (testing.check_positions, Keyless),
    "attention-dense": (testing.check_attention, lambda: attending(lambda torchs, q, k, v, bias: torchs(q, k, v))),
    "attention-shared": (
        testing.check_attention,
        lambda: attending(
            lambda torchs, q, k, v, bias: torchs(
                q, *(each.repeat(1, 1, q.shape[2] // k.shape[2], 1) for each in (k, v)), bias
            )
        ),
    ),
    "attention-repeat": (
        testing.check_attention,
        lambda: attending(lambda torchs, q, k, v, bias: torchs(q, k, v, bias) + q.mul_(1.01).sum() * 0),
    ),
    "attention-batch": (
        testing.check_attention,
        lambda: attending(lambda torchs, q, k, v, bias: torchs(q, k, v, bias) + (len(q) == 1)),
    ),
    "combine-shape": (testing.check_combine, lambda: joining(lambda outputs: outputs[0][:, :1])),
    "combine-repeat": (testing.check_combine, lambda: joining(lambda outputs: outputs[0].add_(1))),
    "combine-batch": (testing.check_combine, lambda: joining(lambda outputs: outputs[0] + outputs[0].mean())),
    "memory-attend": (testing.check_memory, lambda: Blind),
    "memory-state": (testing.check_memory, lambda: Empty),
    "memory-bias": (testing.check_memory, lambda: Unbiased),
    "memory-layers": (testing.check_memory, lambda: Undivided),
    "memory-groups": (testing.check_memory, lambda: Ungrouped),
    "memory-virtual": (testing.check_memory, lambda: Unmixed),
    "memory-missing": (testing.check_memory, lambda: Obliging),
}


def nothing(self: Any, start: int, block: int) -> frozenset[int]:
    return frozenset()


@pytest.mark.parametrize("rule", testing.RULES)
def test_a_part_that_breaks_a_rule_is_told_so(rule: str) -> None:
    SHARED.clear()
    check, make = BROKEN[rule]
    with pytest.raises(testing.CheckFailed) as failure:
        check(make())
    assert failure.value.rule == rule, str(failure.value)
    assert testing.RULES[rule] in str(failure.value)
    assert len(failure.value.problem) > 30


@pytest.mark.parametrize(
    ("check", "part"),
    [
        (backbone, net), (cut, Codec), (testing.check_noise, Noise), (testing.check_metric, Mean),
        (testing.check_finish, Stage),
        (testing.check_flow, DIS), (testing.check_conditioner, Text), (testing.check_sampler, Sampled),
    ],
)  # fmt: skip
def test_the_parts_that_were_broken_are_sound_otherwise(check: Check, part: Callable[[], Any]) -> None:
    check(part())


def test_every_rule_is_explained_where_a_failure_says() -> None:
    text = DOCS.read_text()
    for rule in testing.RULES:
        page = testing.CheckFailed(rule, None, "").page
        section = text.partition(f"### Rules: {page.partition('#rules-')[2]}\n")[2].partition("\n### ")[0]
        assert f"`{rule}`" in section, rule


def test_same_as_holds_for_a_shift() -> None:
    class Shifted(Window):
        def plan(self, step: Step) -> ReadPlan:
            plan = super().plan(step)
            moved = tuple(replace(segment, time=segment.time + 5) for segment in plan.segments)
            return ReadPlan(moved, plan.query + 5)

    policy(Window(2), same_as=Shifted(2))


def test_a_phase_of_its_own_is_honoured() -> None:
    class Committing(Window):
        def plan(self, step: Step) -> ReadPlan:
            return super().plan(step) if step.phase is not Phase.COMMIT else ReadPlan((), step.start)

        def revisited(self, start: int, block: int) -> frozenset[int]:
            return self.live(start, block)  # the commit does not read what the next block does

        moves = revisited

    policy(Committing(2))


def test_a_stage_that_looks_ahead_within_a_block_may_be_checked_as_one() -> None:
    testing.check_finish(Stage(Ahead), in_order=False)
