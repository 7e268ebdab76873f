"""Memory of a rollout in which every query token attends to a few frames of its history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from rollforge.memory.bias import NEVER
from rollforge.memory.combine import Combine
from rollforge.memory.kv_codec import KVCodec
from rollforge.memory.rollout import RolloutMemory
from rollforge.memory.routing import Choice, Routing
from rollforge.positions import Positions
from rollforge.ranges import Checked, Count, CountFromZero
from rollforge.spec import ModelSpec


class RoutedMemory(Checked, RolloutMemory):
    """Cached attention in which each query token and head keeps the ``top_k`` frames of the plan that fit it best.

    Frames are scored by q . mean key of the frame, both rotated. The frames of the pass are always attended to and do
    not count. There is one softmax over them and the kept frames, with the usual scale, so that with all frames kept
    this is ``RolloutMemory``. A reference path: all scores are computed and those of other frames masked, which saves
    neither time nor memory. Training of a model with this memory uses the same routing. Source: Resampling Forcing.

    Args:
        spec: the backbone's.
        visible: upper bound on the context frames of any plan.
        positions: how queries and keys are rotated. Default: ``Rope()``.
        kv_codec: how raw keys and values are kept. Default: as they are.
        combine: what joins the branches of a plan, each of which is routed by itself.
        top_k: frames that are kept. Default: all.
        forced: the ``first`` and ``last`` frames of the history that are kept whatever their score. They count.
        choice: ``token``: every query token and head chooses; ``frame``: the mean query of a frame chooses once, by the
            sum over heads.

    Raises:
        UserError: a value is not in its range, or more frames are forced than are kept.
    """

    def __init__(
        self,
        spec: ModelSpec,
        visible: CountFromZero,
        positions: Positions | None = None,
        kv_codec: KVCodec | None = None,
        combine: Combine | None = None,
        top_k: Count | None = None,
        forced: Sequence[Literal["first", "last"]] = (),
        choice: Choice = "token",
    ) -> None:
        super().__init__(spec, visible, positions, kv_codec, combine)
        self.routing: Routing = Routing(top_k, forced, choice)

    @torch.compiler.disable  # type: ignore[untyped-decorator] # torch gives it no type
    def attention(self, layer: int, q: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        tokens = self.spec.tokens
        own = len(self._now.frames) * tokens
        count = keys.shape[1] // tokens - len(self._now.frames)
        if self.routing.keeps_all(count):
            return super().attention(layer, q, keys, values, bias)
        allowed = None  # frames that a segment hides from a head or layer do not take a place
        if bias is not None:
            allowed = bias[..., own:].unflatten(-1, (count, tokens)).amax(-1) > NEVER
        contents = [content for content, _ in self._layouts[layer]]
        hidden = self.routing.bias(q, keys[:, own:], tokens, contents, allowed)
        route = torch.cat([hidden.new_zeros(*hidden.shape[:-1], own), hidden], dim=-1)
        return super().attention(layer, q, keys, values, route if bias is None else bias + route)
