"""Virtual frames: keys and values that are made from those of other frames."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from rollforge.memory.slots import Piece
from rollforge.spec import Virtual


def blended(virtual: Virtual, layer: int, sources: Sequence[Piece]) -> list[Piece]:
    """Keys and values in one layer of each frame that is made, ``[B, tokens, heads, head_dim]`` each.

    Averages are in float32 at least, and kept so: a slow one would stand still in half precision. What a function makes
    is in the number format that it returns.
    """
    if virtual.tokens is not None:
        keys, values = (_gathered(virtual, virtual.tokens[layer], list(each)) for each in zip(*sources, strict=True))
        return [(keys, values)]
    averages = virtual.make is None or virtual.pool is not None
    keys, values = (_stacked(each, averages) for each in zip(*sources, strict=True))  # [B, n, tokens, ...]
    if virtual.make is not None:
        made = virtual.make(layer, keys, values, virtual.of)
        if not isinstance(made, tuple) or len(made) != 2 or not all(isinstance(each, Tensor) for each in made):
            raise ValueError(
                f"The function of virtual frame {virtual.frame} returned {made!r:.60}; expected keys and values."
            )
        k, v = made
        expected = (len(keys), *([virtual.count] if virtual.count else []), *keys.shape[2:])
        if k.shape != expected or v.shape != expected:
            raise ValueError(
                f"The function of virtual frame {virtual.frame} returned keys and values of shape {list(k.shape)} and "
                f"{list(v.shape)}; expected {list(expected)}."
            )
    else:
        k, v = (_weighted(virtual, layer, x) for x in (keys, values))
    if virtual.count is None:
        k, v = k[:, None], v[:, None]
    if virtual.pool:
        k, v = _pooled(k), _pooled(v)
    return list(zip(k.unbind(1), v.unbind(1), strict=True))


def places_of(virtual: Virtual, layer: int, known: Sequence[Tensor | None]) -> Tensor:
    """The places within a frame of the ``tokens`` of a virtual frame, ``[B, n]``.

    ``known`` are the places ``[B, tokens]`` of each source's tokens; None where they lie in order.
    """
    assert virtual.tokens is not None
    index = virtual.tokens[layer]
    in_order = torch.arange(index.shape[1], device=index.device).expand_as(index)
    return torch.cat([in_order if each is None else each for each in known], dim=1).gather(1, index)


def _gathered(virtual: Virtual, index: Tensor, sources: Sequence[Tensor]) -> Tensor:
    """Single tokens of several frames ``[B, tokens, heads, head_dim]``, by their number when laid end to end."""
    every = torch.cat(list(sources), dim=1)
    if index.shape != sources[0].shape[:2]:
        raise ValueError(
            f"Virtual frame {virtual.frame} has token indices of shape {list(index.shape)} in each layer; expected "
            f"{list(sources[0].shape[:2])}, one for each sample and token of a frame."
        )
    return every.gather(1, index[:, :, None, None].expand(-1, -1, *every.shape[2:]))


def _stacked(parts: Sequence[Tensor], precise: bool) -> Tensor:
    """Frames ``[B, tokens, heads, head_dim]`` in the widest of their number formats; ``precise``: float32 at least."""
    formats = [part.dtype for part in parts] + ([torch.float32] if precise else [])
    widest = reduce(torch.promote_types, formats)
    return torch.stack([part.to(widest) for part in parts], dim=1)


def _weighted(virtual: Virtual, layer: int, x: Tensor) -> Tensor:
    """The sum over ``[B, n, tokens, heads, head_dim]``."""
    weights = virtual.weights
    if weights is None:
        return x.mean(dim=1)
    if not isinstance(weights, Tensor):
        # one by one: a tensor made of Python numbers would have to be sent to the device
        return sum((x[:, n] * weight for n, weight in enumerate(weights)), torch.zeros_like(x[:, 0]))
    own = (weights[layer] if weights.dim() == 3 else weights).to(x)
    return torch.einsum("bn,bn...->b...", own.expand(len(x), -1), x)


def _pooled(x: Tensor) -> Tensor:
    """The mean over all places of ``[B, n, tokens, heads, head_dim]``, at every place."""
    return x.mean(dim=2, keepdim=True).expand_as(x)
