"""History routing against explicit choices and one softmax for each query token, written out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from brute import BruteMemory, check_passes, check_rollout
from torch import Tensor
from toy_backbone import BLOCK, LAYERS, TOKENS, Toy, condition

import rollforge
from rollforge.errors import UserError
from rollforge.memory import RolloutMemory, Rope, RoutedMemory
from rollforge.memory.base import Now
from rollforge.memory.routing import pooled, routed
from rollforge.policies import CachePolicy, RollingSink, Window
from rollforge.rollout import Rollout
from rollforge.samplers import FewStep
from rollforge.spec import ReadPlan, Segment, Step
from rollforge.testing import check_memory
from rollforge.testing.tiny import Rolls

CONFIG = Path(__file__).parents[2] / "configs" / "pocket" / "routed.yaml"
FRAMES = 10
SAMPLER = FewStep((1000, 500), shift=1.0, context_noise=20.0)


@dataclass
class Routing(BruteMemory):
    """Chooses frames in loops."""

    top_k: int = 1
    forced: Sequence[str] = ()
    choice: str = "token"
    dropped: int = 0

    def _softmax(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: Any, runs: list[Segment]) -> Tensor:
        out, share = torch.zeros_like(q), q.shape[2] // k.shape[2]
        entries = [(run, *entry) for run in runs for entry in run.entries()]
        turned = [self.turn(layer, self.kept[layer, frame][0], [time], self.pass_now) for _, frame, time in entries]
        for b in range(len(q)):
            for head in range(q.shape[2]):
                h = head // share
                for row in range(q.shape[1]):
                    readable = [n for n, (run, *_) in enumerate(entries) if run.heads is None or head in run.heads]
                    chosen = self.choose(readable, q[b], row, head, [x[b] for x in turned], entries, share)
                    self.dropped += len(readable) - len(chosen)
                    keys = torch.cat([k[b, :, h], *(turned[n][b, :, h] for n in chosen)])
                    values = torch.cat([v[b, :, h], *(self.kept[layer, entries[n][1]][1][b, :, h] for n in chosen)])
                    added = [torch.zeros(k.shape[1]), *(torch.full((TOKENS,), entries[n][0].bias) for n in chosen)]
                    logits = keys @ q[b, row, head] / math.sqrt(q.shape[-1]) + torch.cat(added)
                    out[b, row, head] = logits.softmax(0) @ values
        return out

    def choose(
        self, readable: list[int], q: Tensor, row: int, head: int, keys: list[Tensor], entries: Any, share: int
    ) -> list[int]:
        if self.choice == "token":
            scores = {n: float(q[row, head] @ keys[n][:, head // share].mean(0)) for n in readable}
        else:
            first = row // TOKENS * TOKENS
            mean = q[first : first + TOKENS].mean(0)
            scores = {
                n: sum(float(mean[m] @ keys[n][:, m // share].mean(0)) for m in range(len(mean))) for n in readable
            }
        frames = [entries[n][1] for n in readable]
        for end in self.forced if frames else ():
            wanted = min(frames) if end == "first" else max(frames)
            scores |= {n: math.inf for n in readable if entries[n][1] == wanted}
        return sorted(scores, key=lambda n: -scores[n])[: self.top_k]


def brute(rope: Rope, toy: Toy, **how: Any) -> Routing:
    def turn(layer: int, x: Tensor, times: Sequence[float], now: Now) -> Tensor:
        return rope.turn(x, rope.place(toy.spec, times))

    return Routing(TOKENS, BLOCK, turn=turn, **how)


def memory(**how: Any) -> Any:
    return lambda *parts: RoutedMemory(*parts, **how)


@pytest.mark.parametrize(
    ("how", "policy", "kv_heads"),
    [
        ({"top_k": 2}, Window(2), 2),
        ({"top_k": 3, "forced": ("first", "last")}, RollingSink(2, 1), 1),
        ({"top_k": 2, "choice": "frame", "forced": ("last",)}, Window(2), 2),
    ],
    ids=["token", "forced", "frame"],
)
def test_a_rollout_equals_choices_in_loops_alone_in_a_batch_and_resumed(
    how: dict[str, Any], policy: CachePolicy, kv_heads: int
) -> None:
    toy = Toy(kv_heads, positions=Rope())
    loops = brute(Rope(), toy, **how)
    check_rollout(Rollout(toy, policy, SAMPLER, memory=memory(**how)), condition, loops, FRAMES)
    assert loops.dropped > 0


class Split(Window):
    """The oldest frame for one head, with a bias."""

    def plan(self, step: Step) -> ReadPlan:
        plan = super().plan(step)
        runs = [Segment(frame, time, 1) for frame, time in plan.entries()]
        return ReadPlan(
            (*(Segment(run.content, run.time, 1, bias=0.7, heads=(1,)) for run in runs[:2]), *runs[2:]), plan.query
        )


def test_frames_that_a_head_does_not_read_take_no_place() -> None:
    toy = Toy(positions=Rope())
    rollout = Rollout(toy, Split(2), SAMPLER, memory=memory(top_k=3))
    check_passes(rollout, condition(0), brute(Rope(), toy, top_k=3), FRAMES)


@pytest.mark.parametrize("top_k", [None, 6, 99])
def test_all_frames_kept_is_dense_attention(top_k: int | None) -> None:
    dense, kept = (Rolls(Window(2), memory=each, layers=2).blocks_of() for each in (RolloutMemory, memory(top_k=top_k)))
    assert all(torch.equal(one, other) for one, other in zip(dense, kept, strict=True))
    few = Rolls(Window(2), memory=memory(top_k=1), layers=2).blocks_of()
    assert not torch.allclose(few[-1], dense[-1], atol=1e-3)


def test_routing_of_training_keeps_earlier_frames_alone() -> None:
    """The mask of a causal pass over five frames: at most two earlier ones, and the first among them."""
    q, k = torch.randn(2, 2, 5 * TOKENS, 2, 8, generator=torch.Generator().manual_seed(0))
    earlier = torch.ones(5, 5, dtype=torch.bool).tril(-1).repeat_interleave(TOKENS, 0)
    kept = routed(q, pooled(k, TOKENS), 2, TOKENS, forced=torch.arange(5) == 0, allowed=earlier)
    assert kept.shape == (2, 2, 5 * TOKENS, 5)
    assert not (kept & ~earlier).any()
    assert kept.sum(-1).unique().tolist() == [0, 1, 2]
    assert kept[:, :, TOKENS:, 0].all()


def test_it_passes_the_kit_with_all_frames_kept() -> None:
    check_memory(RoutedMemory)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"top_k": 0}, "RoutedMemory.top_k must be a whole number of 1 or more, not 0"),
        (
            {"top_k": 1, "forced": ("first", "last")},
            r"top_k=1 and forced=\['first', 'last'\]; raise top_k to 2 or more",
        ),
    ],
)
def test_numbers_that_do_not_fit_are_refused_before_the_first_block(how: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Rolls(Window(2), memory=memory(**how)).start()


def test_a_config_names_it_with_its_arguments() -> None:
    pipeline = rollforge.load(CONFIG, "trainer.accelerator=cpu")
    made = pipeline.rollout()
    spec = pipeline.backbone.spec
    found = made.memory(spec, 18, made.positions, made.kv_codec, None)
    assert isinstance(found, RoutedMemory)
    assert found.routing == pipeline.routing
    assert (found.routing.top_k, [*found.routing.forced], found.routing.choice) == (5, ["last"], "token")
    assert len(found._layouts) == spec.layers > LAYERS
