"""What is added to the logits: biases, heads, tokens and branches of segments, and the order of a causal pass."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rollforge.devices import sent
from rollforge.spec import ModelSpec, ReadPlan, Segment

NEVER = -math.inf


def check_segments(plan: ReadPlan, spec: ModelSpec) -> None:
    """Raises ``ValueError`` for a segment that names a layer, head or token that the backbone does not have."""
    for run in plan.segments:
        where = f"The segment of frame {run.content} at time index {run.time}"
        named = (("layer", run.layers, spec.layers), ("head", run.heads, spec.heads))
        tokens = () if isinstance(run.tokens, Tensor) else (("token", run.tokens, spec.tokens),)
        for what, chosen, count in (*named, *tokens):
            if chosen is not None and not (len(chosen) and all(0 <= each < count for each in chosen)):
                raise ValueError(
                    f"{where} names the {what}s {list(chosen)}; the backbone has {what}s 0 to {count - 1}."
                )
        if isinstance(run.tokens, Tensor) and (run.tokens.dim() != 3 or len(run.tokens) != spec.layers):
            raise ValueError(
                f"{where} has token indices of shape {list(run.tokens.shape)}; expected [layers, B, n] with "
                f"{spec.layers} layers."
            )
        if not math.isfinite(run.bias) or run.branch < 0:
            raise ValueError(
                f"{where} has bias {run.bias} and branch {run.branch}; expected a finite bias, and 0 or more."
            )


def branches_of(runs: Sequence[Segment]) -> list[int]:
    """The branches that a layer reads; the first is always there."""
    return sorted({0} | {run.branch for run in runs})


def context_bias(
    runs: Sequence[Segment], order: Sequence[int], branch: int, layer: int, spec: ModelSpec, device: torch.device
) -> Tensor | None:
    """The bias of every slot's keys in one branch, ``[B or 1, heads or 1, 1, slots * tokens]``; None where it is 0.

    Args:
        runs: those that the layer reads.
        order: for each slot the number of its entry among the entries of ``runs``.
        branch: the branch.
        layer: the layer.
        spec: the backbone's.
        device: where the bias goes.
    """
    if all(run.plain and run.branch == branch for run in runs):
        return None
    owners = [run for run in runs for _ in run.entries()]
    slots = [owners[n] for n in order]
    heads = spec.heads if any(run.heads is not None for run in slots) else 1
    table = torch.full((heads, len(slots)), NEVER)
    for n, run in enumerate(slots):
        if run.branch == branch:
            table[list(run.heads) if run.heads is not None and heads > 1 else slice(None), n] = run.bias
    bias = sent(table, device)[None, :, :, None].expand(-1, -1, -1, spec.tokens)
    if any(run.tokens is not None for run in slots):
        chosen = [_tokens(run, layer, spec, device) for run in slots]
        rows = max(len(each) for each in chosen)
        bias = bias + torch.stack([each.expand(rows, -1) for each in chosen], dim=1)[:, None]
    return bias.flatten(2)[:, :, None]


def _tokens(run: Segment, layer: int, spec: ModelSpec, device: torch.device) -> Tensor:
    """0 for the tokens of a frame that are read, ``[B or 1, tokens]``."""
    if run.tokens is None:
        return torch.zeros(1, spec.tokens, device=device)
    indices = run.tokens[layer] if isinstance(run.tokens, Tensor) else sent(torch.tensor([list(run.tokens)]), device)
    hidden = torch.full((len(indices), spec.tokens), NEVER, device=device)
    return hidden.scatter(1, indices.to(device), 0.0)


def causal_bias(frames: int, block: int, tokens: int, device: torch.device) -> Tensor:
    """Among the frames of a pass, each block attends to itself and those before it: ``[L, L]``.

    Blocks are counted from the end: what fills no whole block comes first, as given frames do.
    """
    number = (torch.arange(frames) - frames).div(block, rounding_mode="floor").repeat_interleave(tokens)
    return sent(torch.where(number[:, None] >= number, 0.0, NEVER), device)


def joined(own: Tensor | None, context: Tensor | None, rows: int, columns: int) -> Tensor | None:
    """The bias of a pass of ``rows`` tokens and ``columns`` context tokens; None where both are.

    Args:
        own: among the tokens of the pass, broadcast to ``[B, heads, rows, rows]``.
        context: of the context, ``[B or 1, heads or 1, 1, columns]``.
        rows: tokens of the pass.
        columns: tokens of the context.
    """
    known = own if context is None else context
    if known is None:
        return None
    own = known.new_zeros(1, 1, 1, rows) if own is None else own.expand(*own.shape[:-1], rows)
    own = own[(None,) * (4 - own.dim())]
    context = known.new_zeros(1, 1, 1, columns) if context is None else context.to(own.dtype)
    shape = torch.broadcast_shapes(own.shape[:-1], context.shape[:-1])
    return torch.cat([own.expand(*shape, rows), context.expand(*shape, columns)], dim=-1)
