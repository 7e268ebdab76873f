"""The memory of one of the processes of a video: some heads of all frames, and of each frame a share of its tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rollforge.memory.combine import Combine
from rollforge.memory.kv_codec import KVCodec
from rollforge.memory.rollout import RolloutMemory
from rollforge.parallel.attention import attention_with_sums, joined
from rollforge.parallel.group import ContextGroup
from rollforge.positions import Positions
from rollforge.positions.base import Placement
from rollforge.ranges import CountFromZero
from rollforge.spec import ModelSpec, ReadPlan, Step, Virtual


class ShareMemory(RolloutMemory):
    """Cached attention of one process, which keeps ``1 / processes`` of the keys and values.

    Among processes that divide the keys, each attends with the queries of all of them to its own share of the tokens of
    every frame; the partial results are joined by log-sum-exp. Keys never move from process to process.

    Args:
        group: the processes of the video.
        spec: the backbone's, whole.
        visible: upper bound on the context frames of any plan.
        positions: how queries and keys are rotated. Default: ``Rope()``.
        kv_codec: how raw keys and values are kept. Default: as they are.
        combine: not used; plans with branches are refused.
    """

    def __init__(
        self,
        group: ContextGroup,
        spec: ModelSpec,
        visible: CountFromZero,
        positions: Positions | None = None,
        kv_codec: KVCodec | None = None,
        combine: Combine | None = None,
    ) -> None:
        super().__init__(group.division.share(spec), visible, positions, kv_codec, combine)
        self.group, self.whole = group, spec
        self.part = [group.division.keys, group.division.heads, group.rank]

    def begin(self, step: Step, plan: ReadPlan) -> None:
        self._check_segments(plan)
        super().begin(step, plan)

    def make(self, block: int, virtual: Sequence[Virtual]) -> None:
        divided = self.group.division
        for each in virtual:
            mixes = each.pool is not None or each.tokens is not None
            if each.make is not None or (mixes and divided.keys > 1):
                what = "by a function" if each.make else "from single tokens or pooled places"
                raise ValueError(
                    f"It makes the virtual frame {each.frame} {what}, and model.context_parallel divides heads and "
                    "tokens among processes; generate with one process for each video."
                )
        super().make(block, virtual)

    def attention(self, layer: int, q: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        count = self.group.division.keys
        if count == 1:
            return super().attention(layer, q, keys, values, bias)
        rows = q.shape[1]
        if bias is not None and bias.shape[-2] == rows:  # it depends on the frames of tokens alone
            bias = bias.repeat(*[1] * (bias.dim() - 2), count, 1)
        queries = self.group.gather(q, self.group.keys).movedim(0, 1).flatten(1, 2)  # [B, processes * L, heads, D]
        made, sums = attention_with_sums(queries, keys, values, bias)
        parts = (x.unflatten(1, (count, rows)).movedim(1, 0) for x in (made, sums))
        return joined(*(self.group.exchange(part, self.group.keys) for part in parts))

    @property
    def _placed_spec(self) -> ModelSpec:
        return self.whole

    def _place(self, times: Sequence[float]) -> list[Placement]:
        """The placements of the tokens and heads of this process."""
        found: list[Placement] = []
        whole = super()._place(times)
        for layer, placement in enumerate(whole):
            same = layer and placement is whole[layer - 1]  # all layers share one placement, as a rule
            found.append(found[-1] if same else self._share(placement, len(times)))
        return found

    def _share(self, placement: Placement, frames: int) -> Placement:
        group, tokens = self.group, self.spec.tokens
        placement = self.positions.heads(placement, group.head_rank, group.division.heads)
        if group.division.keys == 1:
            return placement
        first = torch.arange(frames, device=self._where)[:, None] * self.whole.tokens + group.key_rank * tokens
        return self.positions.rows(placement, (first + torch.arange(tokens, device=self._where)).flatten()[None])

    def _check_segments(self, plan: ReadPlan) -> None:
        """Raises ``ValueError`` for a plan that needs all heads or all tokens of a frame in one process."""
        divided = self.group.division
        for run in plan.segments:
            what = "heads" if run.heads is not None and divided.heads > 1 else ""
            what = "tokens" if run.tokens is not None and divided.keys > 1 else what
            if what:
                raise ValueError(
                    f"The segment of frame {run.content} at time index {run.time} is for some {what}, which "
                    "model.context_parallel divides among processes; generate with one process for each video."
                )
