"""History routing: which frames of its history a query token keeps. For rollouts and for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rollforge.errors import UserError
from rollforge.memory.bias import NEVER

Choice = Literal["token", "frame"]
"""Granularity of the choice: every query token and head, or all tokens and heads of a frame together."""


@dataclass(frozen=True)
class Routing:
    """How query tokens choose among the frames of their history: the arguments of ``RoutedMemory``.

    Raises ``UserError`` where more frames are forced than are kept.
    """

    top_k: int | None = None
    forced: Sequence[Literal["first", "last"]] = ()
    choice: Choice = "token"

    def __post_init__(self) -> None:
        if self.top_k is not None and len(set(self.forced)) > self.top_k:
            raise UserError(
                f"RoutedMemory got top_k={self.top_k} and forced={list(self.forced)}; raise top_k to "
                f"{len(set(self.forced))} or more."
            )

    def keeps_all(self, frames: int) -> bool:
        """Whether a history of so many frames is attended to as a whole."""
        return self.top_k is None or frames <= self.top_k

    def bias(
        self, q: Tensor, keys: Tensor, tokens: int, contents: Sequence[int], allowed: Tensor | None = None
    ) -> Tensor:
        """What hides the tokens of frames that are not kept, ``[B, heads, L, frames * tokens]``; 0 for the others.

        Args:
            q: queries ``[B, L, heads, head_dim]``, rotated as the keys are.
            keys: of the history, ``[B, frames * tokens, heads, head_dim]``.
            tokens: of a frame.
            contents: the number of each frame; negative for virtual ones.
            allowed: as for ``routed``.
        """
        assert self.top_k is not None
        real = [content for content in contents if content >= 0]
        ends = {"first": min, "last": max}
        wanted = {ends[end](real) for end in self.forced if real}
        forced = torch.tensor([content in wanted for content in contents]).to(q.device) if wanted else None
        kept = routed(q, pooled(keys, tokens), self.top_k, tokens, self.choice, forced, allowed)
        hidden = torch.zeros(kept.shape, dtype=q.dtype, device=q.device).masked_fill(~kept, NEVER)
        return hidden.repeat_interleave(tokens, -1)


def pooled(keys: Tensor, tokens: int) -> Tensor:
    """The mean key of each frame and head, ``[B, frames, heads, head_dim]``, of ``[B, frames * tokens, ...]``."""
    return keys.unflatten(1, (-1, tokens)).mean(2)


def routed(
    q: Tensor,
    frames: Tensor,
    top_k: int,
    tokens: int,
    choice: Choice = "token",
    forced: Tensor | None = None,
    allowed: Tensor | None = None,
) -> Tensor:
    """Which history frames are attended to, bool ``[B, heads, L, frames]``.

    A query token and head keeps the ``top_k`` frames with the largest q . mean key. With ``choice="frame"`` the mean
    query of a frame chooses once, by the sum over heads. Source: Resampling Forcing, history routing.

    Args:
        q: queries ``[B, L, heads, head_dim]``, rotated as the keys are.
        frames: mean keys as ``pooled`` makes them; each of their heads may be shared by several of ``q`` in a row.
        top_k: frames that are kept, forced ones included; all where there are fewer.
        tokens: of a frame of ``q``.
        choice: who chooses.
        forced: bool, broadcast to the result: frames that are kept whatever their score.
        allowed: bool, broadcast to the result: the only frames that may be kept, as the earlier ones in training.
    """
    frames = frames.repeat_interleave(q.shape[2] // frames.shape[2], dim=2)
    scores = torch.einsum("blhd,bfhd->bhlf", q.float(), frames.float())
    if choice == "frame":
        every = scores.unflatten(2, (-1, tokens))  # the mean of products is the product with the mean
        scores = every.mean(3, keepdim=True).sum(1, keepdim=True).expand_as(every).flatten(2, 3)
    if forced is not None:
        scores = scores.masked_fill(forced, torch.inf)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    best = scores.topk(min(top_k, scores.shape[-1])).indices
    kept = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, best, True)
    return kept if allowed is None else kept & allowed
