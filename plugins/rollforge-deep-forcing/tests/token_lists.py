"""Deep Forcing by brute force: each layer and sample has lists of tokens, and every softmax is written out."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from brute import BruteMemory
from torch import Tensor

from rollforge.policies import CachePolicy
from rollforge.spec import Step

WIDE = 2  # tokens of a frame are 2x2
Token = tuple[int, Tensor, Tensor, Tensor]
"""Its place in its frame; its key and value ``[heads, head_dim]``; its key as it was rotated when it was committed."""


def rotated(x: Tensor, time: float, place: int) -> Tensor:
    """``[heads, 8]`` at a time index and place: two pairs turn with time, one with the row, one with the column."""
    angles = torch.tensor([time, time * 0.01, place // WIDE, place % WIDE], dtype=torch.float64)
    turned = torch.view_as_complex(x.double().unflatten(-1, (4, 2)).contiguous()) * torch.exp(1j * angles)
    return torch.view_as_real(turned).flatten(-2)


@dataclass
class TokenLists(BruteMemory):
    """What Deep Forcing keeps, without plans, virtual frames or index tensors."""

    window: int = 0
    budget: int = 0
    sink: int = 0
    recent: int = 0
    asking: int = 0
    frames: dict[tuple[int, int], list[list[Token]]] = field(default_factory=lambda: defaultdict(list))  # complete ones
    chosen: dict[tuple[int, int], list[Token]] = field(default_factory=lambda: defaultdict(list))
    asked: dict[tuple[int, int], list[Tensor]] = field(
        default_factory=lambda: defaultdict(list)
    )  # a sum for each frame
    compressions: int = 0
    mixed: int = 0  # chosen lists that hold tokens of one place twice

    def virtual(self, policy: CachePolicy, step: Step, layers: int) -> None:
        """Before each block: compresses where the window is full."""
        for each in list(self.frames):
            held = len(self.frames[each]) + len(self.chosen[each]) // self.tokens
            if held + self.block > self.window:
                self.compress(each)

    def compress(self, each: tuple[int, int]) -> None:
        frames = self.frames[each]
        middle = self.chosen[each] + [token for frame in frames[self.sink : -self.recent] for token in frame]
        asked = sum(self.asked[each][-self.asking :])
        scores = []
        for number, (_, key, _, as_committed) in enumerate(middle):
            share = len(asked) // len(key)  # type: ignore[arg-type] # a tensor
            scores.append((-sum(float(asked[h] @ as_committed[h // share]) for h in range(len(asked))), number))  # type: ignore[index,arg-type]
        count = (self.budget - self.sink - self.recent) * self.tokens
        self.chosen[each] = [middle[number] for number in sorted(number for _, number in sorted(scores)[:count])]
        self.frames[each] = frames[: self.sink] + frames[-self.recent :]
        self.compressions += 1
        self.mixed += len({place for place, *_ in self.chosen[each][: self.tokens]}) < self.tokens

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        start, rows = self.pass_now.frames[0], range(q.shape[1])
        time, place = [start + row // self.tokens for row in rows], [row % self.tokens for row in rows]
        out = torch.zeros_like(q)
        for b in range(len(q)):
            own_q = [rotated(q[b, row], time[row], place[row]) for row in rows]
            own_k = [rotated(k[b, row], time[row], place[row]) for row in rows]
            keys, values = [*own_k, *self.context((layer, b), start)[0]], [*v[b], *self.context((layer, b), start)[1]]
            share = q.shape[2] // k.shape[2]
            for head in range(q.shape[2]):
                every = torch.stack([key[head // share] for key in keys])
                each = torch.stack([value[head // share] for value in values]).double()
                for row in rows:
                    logits = every @ own_q[row][head] / math.sqrt(q.shape[-1])
                    out[b, row, head] = logits.softmax(0) @ each
            if self.pass_now.phase.final:
                for frame in range(0, len(rows), self.tokens):
                    tokens = [(place[r], k[b, r], v[b, r], own_k[r]) for r in rows[frame : frame + self.tokens]]
                    self.frames[layer, b].append(tokens)
                    self.asked[layer, b].append(sum(own_q[frame : frame + self.tokens]))  # type: ignore[arg-type]
        return out

    def context(self, each: tuple[int, int], start: int) -> tuple[list[Tensor], list[Any]]:
        """Rotated keys, and values: contiguous in time up to the block."""
        frames, chosen = self.frames[each], self.chosen[each]
        every = list(frames)
        if chosen:
            parts = [chosen[n : n + self.tokens] for n in range(0, len(chosen), self.tokens)]
            every = frames[: self.sink] + parts + frames[self.sink :]
        first = start - len(every)
        placed = [(token, first + n) for n, frame in enumerate(every) for token in frame]
        return [rotated(key, t, place) for (place, key, _, _), t in placed], [value for (_, _, value, _), _ in placed]
