"""TetherCache's choice of frames, and how frames that are admitted are moved towards those that are there."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-5  # of the variance, as in instance normalization


def attention_mass(query: Tensor, keys: Tensor) -> Tensor:
    """What a mean query ``[B, heads, head_dim]`` attends to among mean keys ``[B, n, heads, head_dim]``, ``[B, n]``.

    The mean over heads of the softmax over frames. Logits are scaled as those of attention are.
    """
    logits = torch.einsum("bhd,bnhd->bhn", query, keys) / query.shape[-1] ** 0.5
    return logits.softmax(dim=-1).mean(dim=1)


def choose(mass: Tensor, frames: Tensor, size: int, diversity: float) -> Tensor:
    """The ``size`` frames with the best scores, one after the other, in the order in which they are given.

    The score of frame i is ``mass_i + diversity (1 - max_j exp(-|i - j| / s) mass_j)``, j over the frames chosen before
    it; ``s`` is half the extent of the candidates, at least 1.

    Args:
        mass: what is attended to, ``[..., n]``.
        frames: frame numbers, ``[..., n]``.
        size: how many are chosen, at most n.
        diversity: weight of the second term.

    Returns:
        Their places, ascending, ``[..., size]``.
    """
    scale = ((frames.amax(-1, keepdim=True) - frames.amin(-1, keepdim=True)) / 2).clamp(min=1)
    taken, covered = torch.zeros_like(mass, dtype=torch.bool), torch.zeros_like(mass)
    for _ in range(size):
        best = (mass + diversity * (1 - covered)).masked_fill(taken, -torch.inf).argmax(-1, keepdim=True)
        near = torch.exp(-(frames - frames.gather(-1, best)).abs() / scale) * mass.gather(-1, best)
        taken, covered = taken.scatter(-1, best, True), torch.maximum(covered, near)
    return taken.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[..., :size]


def blend(x: Tensor, reference: Tensor, share: float) -> Tensor:
    """Frames ``[B, n, tokens, heads, head_dim]`` moved towards the statistics of a reference, ``[B, m, tokens, ...]``.

    ``(1 - share) x + share AdaIN(x; reference)``: mean and standard deviation over the tokens of each frame become
    those over all tokens of the reference, for each head and channel. Without a reference, ``x``.
    """
    if not reference.shape[1]:
        return x
    exact, (new_mean, new_std) = x.float(), _statistics(reference.float(), (1, 2))
    mean, std = _statistics(exact, (2,))
    return torch.lerp(exact, (exact - mean) / std * new_std + new_mean, share).to(x.dtype)


def _statistics(x: Tensor, over: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    mean = x.mean(dim=over, keepdim=True)
    return mean, (x.var(dim=over, correction=0, keepdim=True) + EPSILON).sqrt()
