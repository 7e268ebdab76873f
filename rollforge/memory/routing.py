"""History routing: which frames of its history a query token keeps. For rollouts and for training."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Choice = Literal["token", "frame"]
"""Who chooses: every query token and head for itself, or all tokens and heads of a frame together."""


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
