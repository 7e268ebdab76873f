"""What a policy may do in addition to planning: observe, read again, encode again, and hear of events."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from rollforge.backbones.base import Condition
from rollforge.backbones.wan.network import Wan
from rollforge.errors import UserError
from rollforge.policies import AttentionSink, CachePolicy, Window
from rollforge.rollout import Rollout
from rollforge.samplers import Euler, FewStep, Job, Pass, Passes
from rollforge.samplers.base import Finished
from rollforge.snapshots.packing import pack, unpack
from rollforge.spec import Cut, Event, Phase, PromptSwitch, ReadPlan, Reencode, Reset, Seek, Seen, Start, Step, Virtual

FEW = FewStep([1000, 500])
BANK = 4  # the frames that may be retrieved


def network(block: int = 2) -> Wan:
    torch.manual_seed(0)
    made = Wan(2, 4, 2, 24, 2, 2, 32, 16, 4, 3, block=block, window=6, horizon=6).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return made


@pytest.fixture(scope="module")
def model() -> Wan:
    return network()


def text(rows: int = 1, seed: int = 0) -> Condition:
    generator = torch.Generator().manual_seed(seed)
    return Condition(f"text {seed} {rows}", torch.randn(rows, 3, 4, generator=generator))


class Retrieval(CachePolicy):
    """Reads the last block, and of the first frames the one whose keys are most like its own. Each sample chooses."""

    observes, sees = (1,), ("k",)
    batches = True
    recomputes = True  # it learns from commits alone

    def __init__(self) -> None:
        self.keys: dict[int, Tensor] = {}  # of each frame, [B, heads * head_dim]

    def observe(self, step: Step, layer: int | None, seen: Seen) -> None:
        if step.phase is Phase.COMMIT and seen.k is not None:
            assert (layer, seen.q) == (1, None)
            new = dict(zip(step.frames, seen.k.flatten(2).unbind(1), strict=True))
            kept = {frame: key for frame, key in self.keys.items() if frame < BANK}
            self.keys = {**kept, **new}

    def scores(self, step: Step) -> Tensor:
        """``[B, BANK]``, of the frame right before the block."""
        return torch.stack([(self.keys[step.start - 1] * self.keys[n]).sum(-1) for n in range(BANK)], dim=-1)

    def chosen(self, step: Step) -> int:
        return -1

    def virtual(self, step: Step) -> Sequence[Virtual]:
        if step.start <= BANK:
            return ()
        return [Virtual(-1, tuple(range(BANK)), one_hot(self.scores(step).argmax(-1), BANK).float())]

    def plan(self, step: Step) -> ReadPlan:
        recent = [(frame, frame) for frame in range(max(0, step.start - step.block), step.start)]
        retrieved = [(self.chosen(step), recent[0][0] - 1)] if step.start > BANK else []
        return ReadPlan.of(retrieved + recent, step.start)

    def live(self, start: int, block: int) -> frozenset[int]:
        return frozenset([-1, *range(min(BANK, start)), *range(max(0, start - block), start)])

    def visible(self, block: int) -> int:
        return 1 + block


class RetrievalByIndex(Retrieval):
    """The same for one video, by the number of the frame: no virtual frame, one number leaves the device."""

    batches = False

    def chosen(self, step: Step) -> int:
        return int(self.scores(step).argmax())

    def virtual(self, step: Step) -> Sequence[Virtual]:
        return ()


@pytest.mark.parametrize("kv", [True, False])
def test_each_sample_retrieves_for_itself_and_resumes(model: Wan, kv: bool) -> None:
    prompts, numbers = text(3), [4, 1, 7]
    rollout = Rollout(model, Retrieval(), FEW)
    run = rollout(prompts, 16, samples=numbers)
    before = [next(run).latents for _ in range(5)]
    state = unpack(*pack(run.state_dict(kv)))
    rest = [block.latents for block in run]
    again = rollout(prompts, 16, samples=numbers, state=state, finished=[] if kv else before)
    for one, other in zip(rest, again, strict=True):
        torch.testing.assert_close(one, other.latents, rtol=0, atol=1e-5)
    made, choices = torch.cat([*before, *rest], dim=1), []
    for row, number in enumerate(numbers):
        alone = Rollout(model, RetrievalByIndex(), FEW)(
            Condition(str(row), prompts.embeds[row : row + 1]), 16, samples=[number]
        )
        video = torch.cat([block.latents for block in alone], dim=1)
        torch.testing.assert_close(made[row : row + 1], video, rtol=0, atol=1e-4)
        choices.append(alone.policy.chosen(Step.of(7, 2)))
    assert len({*choices}) > 1


def test_what_is_learned_of_others_is_not_batched_or_recomputed(model: Wan) -> None:
    class Curious(Window):
        observes, sees = (0,), ("q", "k_rotated", "text_k")

    with pytest.raises(UserError, match="With Curious a video may depend on those that are rolled with it"):
        Rollout(model, Curious(2), FEW)(text(2), 8)
    run = Rollout(model, Curious(2), FEW)(text(), 8)
    next(run)
    with pytest.raises(UserError, match="Curious learns from passes that snapshots with kv: recompute"):
        run.state_dict(kv=False)


def test_what_is_seen_has_the_form_that_was_declared(model: Wan) -> None:
    class Listening(Window):
        observes, whole = "all", ("k", "latents")
        sees = ("q", "k", "q_rotated", "k_rotated", "text_k", "latents")

        def __init__(self) -> None:
            super().__init__(2)
            self.observed: list[tuple[Any, ...]] = []

        def observe(self, step: Step, layer: int | None, seen: Seen) -> None:
            shapes = {name: tuple(value.shape) for name, value in vars(seen).items() if value is not None}
            self.observed.append((step.phase, layer, shapes))

    run = Rollout(model, Listening(), Euler(steps=1, guidance=2.0))(text(), 4, negative=text(seed=1))
    list(run)
    keys = {"q": (1, 2, 2, 12), "k": (1, 2, 2, 2, 12), "text_k": (1, 2, 12)}
    keys |= {"q_rotated": (1, 2, 2, 12), "k_rotated": (1, 2, 2, 12)}
    block = (Phase.DENOISE, None, {"latents": (1, 2, 2, 4, 2)})
    passed = [[(phase, layer, keys) for layer in (0, 1)] for phase in (Phase.DENOISE, Phase.COMMIT, Phase.DENOISE)]
    assert run.policy.observed == [*passed[0], block, *passed[1], *passed[2], block]


class Again(Window):
    """Reads frames again after some commit."""

    def __init__(self, wishes: Any, blind: bool = False, reencodes: bool = False) -> None:
        super().__init__(2)
        self.wishes, self.blind, self.reencodes = wishes, blind, reencodes
        self.planned: list[tuple[Phase, int]] = []

    def on_commit(self, step: Step) -> Any:
        return self.wishes if step.start == 2 else None

    def plan(self, step: Step) -> ReadPlan:
        if step.phase is Phase.RECACHE:
            self.planned.append((step.start, len(step.frames)))
            if self.blind:
                return ReadPlan((), step.start)
        return super().plan(step)


def test_a_policy_may_read_frames_again_at_a_commit(model: Wan) -> None:
    plain = [block.latents for block in Rollout(model, Window(2), FEW)(text(), 8)]
    same = Rollout(model, Again([range(2), range(2, 4)]), FEW)(text(), 8)
    other = Rollout(model, Again([range(2, 4)], blind=True), FEW)(text(), 8)
    assert all(torch.allclose(one.latents, two, atol=1e-5) for one, two in zip(same, plain, strict=True))
    changed = [not torch.allclose(one.latents, two, atol=1e-3) for one, two in zip(other, plain, strict=True)]
    assert changed[:3] == [False, False, True]
    assert same.policy.planned == [(0, 2), (2, 2)]
    with pytest.raises(UserError, match="requests to read frame 6 again"):
        list(Rollout(model, Again([range(6, 8)]), FEW)(text(), 8))
    with pytest.raises(UserError, match="The cache policy Again returned 5 from on_commit"):
        list(Rollout(model, Again([5]), FEW)(text(), 8))


class Chosen(AttentionSink):
    """An attention sink that learns at commits which frames it keeps."""

    def __init__(self) -> None:
        super().__init__(2, 1)
        self.kept: frozenset[int] = frozenset()

    def on_commit(self, step: Step) -> None:
        self.kept = super().live(step.frames.stop, step.block)

    def live(self, start: int, block: int) -> frozenset[int]:
        return self.kept


def test_every_guidance_branch_keeps_what_a_policy_decides_at_a_commit(model: Wan) -> None:
    guided = Euler(steps=1, guidance=2.0)
    for join in (model.join, lambda conditions: None):  # in one batch, and one after another
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model, "join", join)
            made, plain = (
                [block.latents for block in Rollout(model, policy, guided)(text(), 12, negative=text(seed=1))]
                for policy in (Chosen(), AttentionSink(2, 1))
            )
        assert all(map(torch.equal, made, plain))


def test_frames_that_are_read_again_see_the_virtual_frames_of_the_next_block(model: Wan) -> None:
    class Chained(Again):
        def __init__(self) -> None:
            super().__init__((), blind=True)

        def on_event(self, event: Event) -> Sequence[range]:
            return [range(4, 6)] if isinstance(event, PromptSwitch) else ()

        def virtual(self, step: Step) -> Sequence[Virtual]:
            return [Virtual(-1, (0, 1))] if step.start == 6 else ()

        def plan(self, step: Step) -> ReadPlan:
            plan = super().plan(step)
            return ReadPlan.of([(-1, 3)], 4) if step.phase is Phase.RECACHE else plan

        def live(self, start: int, block: int) -> frozenset[int]:
            return super().live(start, block) | {-1, 0, 1} - {*range(start, 2)}

        moves = live

    prompts = {0: text(), 6: text(seed=1)}
    made = [block.latents for block in Rollout(model, Chained(), FEW)(prompts, 8)]
    plain = [block.latents for block in Rollout(model, Window(2), FEW)(prompts, 8)]
    assert [torch.equal(one, other) for one, other in zip(made, plain, strict=True)] == [True, True, True, False]


def test_a_latent_may_be_replaced_by_its_pixels_encoded_again() -> None:
    single, encoded = network(block=1), torch.full((1, 1, 2, 4, 2), 0.7)

    class Anchor(Window):
        reencodes = True

        def on_commit(self, step: Step) -> Any:
            return [Reencode(0), range(1)] if step.start == 0 else []

    made = list(Rollout(single, Anchor(3), FEW, encode=lambda frame: encoded)(text(), 4))
    opened = list(Rollout(single, Window(3), FEW)(text(), 4, given=encoded))
    assert not torch.equal(made[0].latents, encoded)
    assert all(torch.equal(one.latents, other.latents) for one, other in zip(made[1:], opened[1:], strict=True))
    with pytest.raises(UserError, match="Anchor needs pixel frames, and this rollout has none"):
        Rollout(single, Anchor(3), FEW)(text(), 4)


class Hearing(Window):
    def __init__(self) -> None:
        super().__init__(2)
        self.events: list[Any] = []

    def on_event(self, event: Event) -> Sequence[range]:
        self.events.append((type(event).__name__, event.step.index, event.coming, getattr(event, "frame", None)))
        return ()


@pytest.mark.parametrize("cut", [None, 1, 2])
def test_events_come_before_their_block_and_name_the_switches_to_come(model: Wan, cut: int | None) -> None:
    rollout, prompts = Rollout(model, Hearing(), FEW), {0: text(), 4: text(seed=1), 9: text(seed=2)}
    run = rollout(prompts, 12)
    for _ in range(cut or 0):
        next(run)
    if cut:
        run = rollout(prompts, 12, state=run.state_dict())
    while run.index < 3:
        next(run)
    run.announce(Cut)
    run.announce(Seek, frame=1)
    run.announce(Reset)
    with pytest.raises(UserError, match="PromptSwitch cannot be announced; expected one of Cut, Seek, Reset"):
        run.announce(PromptSwitch)
    if cut:  # what is announced is part of the state
        run = rollout(prompts, 12, state=unpack(*pack(run.state_dict())))
    list(run)
    assert run.policy.events == [
        ("Start", 0, (4, 9), None), ("PromptSwitch", 2, (9,), None), ("Cut", 3, (9,), None), ("Seek", 3, (9,), 1),
        ("Reset", 3, (9,), None), ("PromptSwitch", 5, (), None),
    ]  # fmt: skip
    assert issubclass(PromptSwitch, Event)
    assert issubclass(Start, Event)


class SinceCut(Window):
    """Reads nothing from before the latest cut."""

    first = 0

    def plan(self, step: Step) -> ReadPlan:
        return ReadPlan.of([pair for pair in super().plan(step).entries() if pair[0] >= self.first], step.start)

    def on_event(self, event: Event) -> Sequence[range]:
        self.first = event.step.start if isinstance(event, Cut) else self.first
        return ()


@pytest.mark.parametrize("kv", [True, False])
def test_announced_events_are_replayed_with_their_blocks(model: Wan, kv: bool) -> None:
    def rolled(cut: int | None = None) -> list[Tensor]:
        run, made = Rollout(model, SinceCut(3), FEW)(text(), 12), []
        while run.index < 3:
            made.append(next(run).latents)
        run.announce(Cut)
        while cut and run.index < cut:
            made.append(next(run).latents)
        if cut:
            state = unpack(*pack(run.state_dict(kv)))
            run = Rollout(model, SinceCut(3), FEW)(text(), 12, state=state, finished=() if kv else made)
        return [*made, *(block.latents for block in run)]

    whole = rolled()
    for cut in (3, 4, 5):
        assert all(map(torch.equal, rolled(cut), whole)), cut


@pytest.mark.parametrize("kv", [True, False])
def test_an_event_may_be_announced_before_the_first_block_of_a_resumed_rollout(model: Wan, kv: bool) -> None:
    run, made = Rollout(model, SinceCut(3), FEW)(text(), 12), []
    while run.index < 3:
        made.append(next(run).latents)
    state = unpack(*pack(run.state_dict(kv)))
    resumed = Rollout(model, SinceCut(3), FEW)(text(), 12, state=state, finished=() if kv else made)
    for each in (run, resumed):
        each.announce(Cut)
    assert all(torch.equal(block.latents, other.latents) for block, other in zip(run, resumed, strict=True))
    assert run.happened == resumed.happened == {3: [("Cut", {})]}


@pytest.mark.parametrize("kv", [True, False])
def test_a_cut_of_the_schedule_is_announced_at_the_first_block_from_there_on(model: Wan, kv: bool) -> None:
    rollout = Rollout(model, SinceCut(3), FEW)
    run, made = rollout(text(), 12), []
    while run.index < 3:
        made.append(next(run).latents)
    run.announce(Cut)
    whole = [*made, *(block.latents for block in run)]
    run, made = rollout(text(), 12, cuts=[5]), []
    for _ in range(5):
        made.append(next(run).latents)
        state = unpack(*pack(run.state_dict(kv)))
        rest = rollout(text(), 12, cuts=[5], state=state, finished=() if kv else made)
        assert all(map(torch.equal, [*made, *(block.latents for block in rest)], whole)), run.index


class Missing(FewStep):
    """Needs a network with a second time."""

    needs_extra = True


@pytest.mark.parametrize(
    ("policy", "sampler", "sentence"),
    [
        (type("Deep", (Window,), {"observes": (9,), "sees": ("k",)})(2), FEW, "Deep observes layer 9, but the"),
        (type("Odd", (Window,), {"observes": (0,), "sees": ("scores",)})(2), FEW, "Odd observes the unknown field"),
        (type("Vague", (Window,), {"sees": ("k",)})(2), FEW, "Vague names k in sees, but no layer"),
        (type("Late", (Window,), {"denoising_steps": 9})(2), FEW, "Late changes its plans in denoising step 9"),
        (type("Split", (Window,), {"branches": 2})(2), FEW, "Split have 2 branches, and no part of kind combine"),
        (Window(2), Missing(), "The sampler Missing passes extra .* the backbone Wan does not take"),
    ],
)  # fmt: skip
def test_a_missing_ability_is_refused_at_once(model: Wan, policy: Any, sampler: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Rollout(model, policy, sampler)(text(), 4)  # not even iterated


class Wordless(Wan):
    """Never asks for keys of the text."""

    def forward(self, latents: Tensor, timesteps: Tensor, condition: Condition, memory: Any) -> Tensor:
        cross, text = (lambda layer, key, project: project()), (lambda layer: None)
        more = {"cross": cross, "text": text, "level": text, "share": memory.share, "gather": memory.gather}
        shown = SimpleNamespace(attend=memory.attend, write=memory.write, now=memory.now, **more)
        return super().forward(latents, timesteps, condition, shown)  # type: ignore[arg-type]


@pytest.mark.parametrize("hides", [(), ("text_k",)])
def test_policy_that_observes_text_is_refused_by_a_backbone_without_text(hides: tuple[str, ...]) -> None:
    silent = network()
    silent.__class__, silent.hides = Wordless, hides
    literate = type("Literate", (Window,), {"observes": (0,), "sees": ("k", "text_k")})(2)
    message = "Literate observes keys of the text, and the backbone Wordless shows none"
    if hides:  # what a network says of itself is checked before it runs
        with pytest.raises(UserError, match=message):
            Rollout(silent, literate, FEW)(text(), 4)
    else:
        with pytest.raises(UserError, match=message):
            next(Rollout(silent, literate, FEW)(text(), 4))
    assert len(list(Rollout(silent, Window(2), FEW)(text(), 4))) == 2


def test_a_memory_that_shows_nothing_is_refused_with_a_policy_that_observes(model: Wan) -> None:
    def blind(*arguments: Any) -> Any:
        raise AssertionError("it is not even made")

    with pytest.raises(UserError, match="Retrieval observes queries and keys, and the memory blind does not show them"):
        Rollout(model, Retrieval(), FEW, memory=blind)(text(), 4)


class Last(FewStep):
    """Keeps the keys of the last denoising pass: four passes for five."""

    def run(self, job: Job) -> Passes:
        for step in job.steps:
            x = job.noise(step, 0)
            x = x - (yield Pass(step, x, 1000.0))
            yield Pass(Step(step.index, step.start, step.block, Phase.COMMIT), x, 0.0)
            yield Finished(step, x)

    def commit(self, step: Step, clean: Tensor, noise: Any) -> Any:
        return iter(())


def test_a_block_may_enter_the_memory_before_it_is_finished(model: Wan) -> None:
    whole = [block.latents for block in Rollout(model, Window(2), Last())(text(), 8)]
    usual = [block.latents for block in Rollout(model, Window(2), FewStep([1000]))(text(), 8)]
    assert all(map(torch.equal, whole, usual))
