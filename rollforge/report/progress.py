"""How far a rollout has come, for the person who waits for it."""

from __future__ import annotations

import time
from collections.abc import Iterator

from torch import Tensor
from tqdm import tqdm

from rollforge.errors import printable


def progress(
    blocks: Iterator[Tensor], total: int, fps: float, label: str, rank: int = 0, done: int = 0
) -> Iterator[Tensor]:
    """Passes on blocks of pixel frames ``[B, T, ...]`` under a bar: seconds made, frames per second, time left.

    ``done`` frames were there before. Of several processes only rank 0 draws one; theirs would overwrite each other.
    """
    form = "{desc} {bar} {n:.1f} of {total:.1f} s of video{postfix} · {remaining} left"
    started, made = time.perf_counter(), 0
    with tqdm(
        desc=f"{printable(label):14}",
        total=total / fps,
        bar_format=form,
        leave=True,
        disable=rank > 0,
        initial=done / fps,
    ) as bar:
        for block in blocks:
            yield block
            made += block.shape[1]
            bar.set_postfix_str(f"{made / (time.perf_counter() - started):.0f} frames/s", refresh=False)
            bar.update((done + made) / fps - bar.n)
