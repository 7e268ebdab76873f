"""Attention of a rollout by brute force: everything is kept, and every softmax is written out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rollforge.backbones.base import Backbone, Condition
from rollforge.memory.base import Memory, Now
from rollforge.policies import CachePolicy
from rollforge.rollout import Rollout
from rollforge.spec import Segment, Step

Turn = Callable[[int, Tensor, Sequence[float], Now], Tensor]


def as_they_are(layer: int, x: Tensor, times: Sequence[float], now: Now) -> Tensor:
    return x


@dataclass
class BruteMemory(Memory):
    """Reads the plan of ``now`` from keys and values that are never dropped.

    Args:
        tokens: of a frame.
        block: frames of a block, for causal passes.
        turn: what positions do to queries and keys at time indices; default: nothing.
        combine: what joins branches.
    """

    tokens: int
    block: int
    turn: Turn = as_they_are
    combine: Callable[[list[Tensor]], Tensor] = lambda outputs: outputs[0]
    kept: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)  # by layer and frame
    states: dict[tuple[int, str, int], Any] = field(default_factory=dict)  # by layer, name and frame
    latents: dict[int, Tensor] = field(default_factory=dict)
    pass_now: Now = field(default_factory=Now)

    @property
    def now(self) -> Now:
        return self.pass_now

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        now, plan = self.pass_now, self.pass_now.plan
        assert plan is not None
        if now.phase.writes:
            for n, frame in enumerate(now.frames):
                rows = slice(n * self.tokens, (n + 1) * self.tokens)
                self.kept[layer, frame] = k[:, rows], v[:, rows]
        runs = [run for run in plan.segments if run.layers is None or layer in run.layers]
        q, k = self.turn(layer, q, now.times, now), self.turn(layer, k, now.times, now)
        branches = sorted({0, *(run.branch for run in runs)})
        outputs = [self._softmax(layer, q, k, v, bias, [r for r in runs if r.branch == branch]) for branch in branches]
        return self.combine(outputs)

    def _softmax(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, runs: list[Segment]) -> Tensor:
        plan = self.pass_now.plan
        assert plan is not None
        out = torch.zeros_like(q)
        share = q.shape[2] // k.shape[2]  # query heads for each head of keys
        own = torch.zeros(len(q), q.shape[2], q.shape[1], q.shape[1])
        if bias is not None:
            own += bias
        if plan.causal:
            block = torch.arange(q.shape[1]) // (self.tokens * self.block)
            own[:, :, block[:, None] < block] = -math.inf
        for b in range(len(q)):
            for head in range(q.shape[2]):
                query = q[b, :, head] / math.sqrt(q.shape[-1])
                scores = [query @ k[b, :, head // share].T + own[b, head]]
                values = [v[b, :, head // share]]
                for run in runs:
                    if run.heads is not None and head not in run.heads:
                        continue
                    which = range(self.tokens) if run.tokens is None else run.tokens
                    which = list(which[layer, b] if isinstance(which, Tensor) else which)
                    for frame, time in run.entries():
                        key, value = self.kept[layer, frame]
                        key = self.turn(layer, key, [time], self.pass_now)[b, which, head // share]
                        scores.append(query @ key.T + run.bias)
                        values.append(value[b, which, head // share])
                out[b, :, head] = torch.cat(scores, 1).softmax(1) @ torch.cat(values)
        return out

    def carry(self, layer: int, name: str, step: Callable[[Any], tuple[Tensor, Any]]) -> Tensor:
        frames = self.pass_now.frames
        output, after = step(self.states.get((layer, name, frames[0])))
        if self.pass_now.phase.writes:
            self.states[layer, name, frames[-1] + 1] = after
        return output

    def history(self, frames: Sequence[int]) -> Tensor:
        return torch.cat([self.latents[frame] for frame in frames], dim=1)

    def virtual(self, policy: CachePolicy, step: Step, layers: int) -> None:
        """Makes the virtual frames of a block, all from what was kept before."""
        made = {}
        for each in policy.virtual(step):
            weights = each.weights if each.weights is not None else [1 / len(each.of)] * len(each.of)
            for layer in range(layers):
                parts = [[x * w for x in self.kept[layer, f]] for f, w in zip(each.of, weights, strict=True)]
                made[layer, each.frame] = tuple(sum(column) for column in zip(*parts, strict=True))
        self.kept |= made


def check_rollout(rollout: Rollout, condition: Callable[[int], Condition], brute: BruteMemory, frames: int) -> None:
    """A batch of two rolls as by brute force, as two batches of one, and as when it is interrupted after any block.

    ``condition`` makes the features of a sample; those of a batch are stacked.
    """
    both = stacked([condition(0), condition(1)])
    together = torch.cat(check_passes(rollout, both, brute, frames), dim=1)
    for sample in (0, 1):
        alone = torch.cat([b.latents for b in rollout(condition(sample), frames, samples=[sample])], dim=1)
        torch.testing.assert_close(together[sample : sample + 1], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=0.01)
    check_resume(rollout, both, frames)


@torch.no_grad()
def check_passes(rollout: Rollout, condition: Condition, brute: BruteMemory, frames: int) -> list[Tensor]:
    """Every pass of a rollout predicts what it predicts by brute force. Returns the latents of the blocks."""
    passes: list[tuple[Now, Tensor, Tensor, Tensor]] = []

    def record(module: Backbone, given: tuple[Any, ...], made: Tensor) -> None:
        passes.append((given[3].now, given[0], given[1], made))

    hook = rollout.backbone.register_forward_hook(record)  # type: ignore[arg-type]
    blocks = [block.latents for block in rollout(condition, frames)]
    hook.remove()
    assert sum(block.shape[1] for block in blocks) == frames
    assert 0.05 < torch.cat(blocks, dim=1).std() < 50
    assert any(now.plan and now.plan.segments for now, *_ in passes)
    spec, entered = rollout.backbone.spec, -1
    for now, latents, timesteps, made in passes:
        if now.frames[0] > entered:
            entered = now.frames[0]
            brute.virtual(rollout.policy, Step(entered // spec.block, entered, spec.block), spec.layers)
        brute.pass_now = now
        own = replace(condition, extra={name: value[:, now.frames] for name, value in condition.extra.items()})
        torch.testing.assert_close(made, rollout.backbone(latents, timesteps, own, brute), rtol=1e-4, atol=1e-5)
        if now.phase.writes:
            brute.latents |= dict(zip(now.frames, latents.split(1, dim=1), strict=True))
    return blocks


def check_resume(rollout: Rollout, condition: Condition, frames: int) -> None:
    """A rollout that is interrupted after any block equals the uninterrupted one, in both modes of snapshots."""
    blocks = [block.latents for block in rollout(condition, frames)]
    run = rollout(condition, frames)
    for cut in range(1, len(blocks)):
        next(run)
        for kv in (True, False):
            again = rollout(condition, frames, state=run.state_dict(kv), finished=() if kv else blocks[:cut])
            rest = [block.latents for block in again]
            assert len(rest) == len(blocks) - cut, (cut, kv)
            assert all(torch.equal(one, other) for one, other in zip(rest, blocks[cut:], strict=True)), (cut, kv)


def stacked(conditions: list[Condition]) -> Condition:
    """The features of several samples as one batch."""
    extra = {name: torch.cat([each.extra[name] for each in conditions]) for name in conditions[0].extra}
    return Condition("+".join(each.id for each in conditions), torch.cat([each.embeds for each in conditions]), extra)
