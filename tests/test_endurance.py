"""What a long rollout must not do: grow, wait for the device, or make a compiler start again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rollforge.backbones.base import Condition
from rollforge.backbones.pocket.network import Pocket
from rollforge.backbones.wan.network import Wan
from rollforge.errors import PartError
from rollforge.memory import RolloutMemory
from rollforge.policies import AttentionSink, CachePolicy, RollingSink, SlidingIndices, Window
from rollforge.rollout import Rollout, RolloutIterator
from rollforge.samplers import Euler, FewStep

POLICIES = [Window(3), AttentionSink(3, 2), SlidingIndices(3, 2), RollingSink(3, 2)]
TEXT = Condition("text", torch.zeros(1, 2, 4))
FEW = FewStep([1000, 500])
WAITS = ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__")


@pytest.fixture(scope="module")
def model() -> Wan:
    torch.manual_seed(0)
    return Wan(2, 4, 4, 24, 2, 2, 32, 16, 4, 2, block=2, window=8, horizon=8).eval()


class NoWaiting(TorchDispatchMode):
    """Forbids the operation by which a number leaves its device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "a number was read from the device"
        return func(*args, **(kwargs or {}))


@contextmanager
def nothing_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the loop waited for the device")

    with monkeypatch.context() as patched, NoWaiting():
        for name in WAITS:
            patched.setattr(Tensor, name, refuse)
        yield


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
def test_the_loop_never_reads_a_number_from_the_device(
    model: Wan, policy: CachePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with nothing_waits(monkeypatch):
        blocks = list(Rollout(model, policy, FEW)(TEXT, 40))
    assert len(blocks) == 20


def test_the_watch_notices_a_loop_that_waits(model: Wan, monkeypatch: pytest.MonkeyPatch) -> None:
    class Waiting(FewStep):
        def run(self, job: Any) -> Any:
            for request in super().run(job):
                assert request.latents.sum().item() is not None
                yield request

    with pytest.raises(PartError, match="waited"), nothing_waits(monkeypatch):
        list(Rollout(model, Window(3), Waiting())(TEXT, 8))


def held(memory: RolloutMemory) -> tuple[list[tuple[int, ...]], int]:
    """Where the buffers lie and how large they are, and how many frames are kept raw."""
    places = [tensor for view in memory._views.values() for tensor in (view.keys, view.values)]
    return [(tensor.data_ptr(), *tensor.shape) for tensor in places], len(memory.raw)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
def test_once_the_window_is_full_nothing_is_allocated_and_nothing_piles_up(
    model: Wan, policy: CachePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[RolloutIterator] = []
    start = RolloutIterator.__init__
    monkeypatch.setattr(RolloutIterator, "__init__", lambda self, *a, **k: (runs.append(self), start(self, *a, **k))[1])
    blocks = Rollout(model, policy, FEW)(TEXT, 200)
    seen = [held(runs[0].passes.memories["prompt"]) for block in blocks if block.index >= 8]
    assert len(runs) == 1
    assert len(seen) == 92
    assert all(each == seen[0] for each in seen)
    assert seen[0][1] <= len(policy.moves(200, 2)) + 2


@pytest.mark.parametrize(
    ("policy", "fuse"),
    [
        pytest.param(Window(3), False, marks=pytest.mark.matrix),
        (RollingSink(4, 2), False),
        pytest.param(Window(2), True, marks=pytest.mark.matrix),
    ],
    ids=["Window", "RollingSink", "fuse_commit"],
)
@torch._dynamo.config.patch(recompile_limit=64)
def test_a_network_compiles_as_one_graph_for_each_kind_of_pass(model: Wan, policy: CachePolicy, fuse: bool) -> None:
    """Counted with a backend that compiles nothing: every graph it is handed is one compilation.

    A denoising pass and a commit, and perhaps both in one, for each number of frames in the window: none more once it
    is full, under another prompt neither, nor for the memory of another guidance branch.
    """
    graphs: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    sampler, prompts = Euler(steps=2, guidance=2.0), {0: TEXT, 16: Condition("other", torch.ones(1, 1, 4))}
    torch._dynamo.reset()
    compiled: Any = torch.compile(model, backend=backend, fullgraph=True)
    counts: list[int] = []
    run = Rollout(compiled, policy, sampler, fuse_commit=fuse)(prompts, 20, negative=TEXT)
    whole = torch.cat([_count(block, graphs, counts) for block in run], dim=1)
    torch._dynamo.reset()
    full = policy.visible(2) // 2
    assert 0 < counts[-1] <= (3 if fuse else 2) * (full + 1)
    again = 1 if fuse else 0  # where the prompt switches, a commit has a pass of its own
    assert counts[full + 1] + again >= counts[-1], f"compiled again: {counts}"
    plain = [block.latents for block in Rollout(model, policy, sampler)(prompts, 20, negative=TEXT)]
    torch.testing.assert_close(whole, torch.cat(plain, dim=1), rtol=0, atol=1e-5)  # it rotates by another formula


class Operators(TorchDispatchMode):
    """Counts what the dispatcher runs, views left out."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not (func.is_view or func is torch.ops.aten._unsafe_view.default)
        return func(*args, **(kwargs or {}))


def test_guided_pocket_runs_few_operators_for_each_layer_and_pass() -> None:
    """Both guidance branches of Pocket in one pass, the loop around it included. At 4425cdc 142 for the two.

    Four of them are the GELU of a CPU.
    """
    run = Rollout(Pocket(weights="random").eval(), RollingSink(), Euler(4, 2.0, 3.0))
    text = Condition("text", torch.zeros(1, 4, 64))
    blocks = run(text, 39, negative=text)
    for _ in range(10):
        next(blocks)
    with Operators() as operators:
        next(blocks)
    assert 30 < operators.count / (6 * 5) <= 41


def test_a_compiled_network_shows_a_policy_what_it_asks_for(model: Wan) -> None:
    seen: dict[bool, list[Tensor]] = {}

    class Watching(Window):
        observes, sees = (1,), ("k_rotated", "text_k")

        def observe(self, step: Any, layer: Any, shown: Any) -> None:
            seen[compiling] += [shown.k_rotated, shown.text_k]

    torch._dynamo.reset()
    for compiling in (False, True):
        network: Any = torch.compile(model, backend="eager") if compiling else model
        seen[compiling] = []
        list(Rollout(network, Watching(3), FEW)(TEXT, 6))
    torch._dynamo.reset()
    assert len(seen[True]) == len(seen[False]) > 0
    for one, other in zip(*seen.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def _count(block: Any, graphs: list[int], counts: list[int]) -> Tensor:
    counts.append(len(graphs))
    latents: Tensor = block.latents
    return latents
