"""Rebuilds the memories of a rollout whose state was saved without them, from the latents of all finished blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from torch import Tensor

from rollforge.errors import UserError
from rollforge.rollout.parts import Parts
from rollforge.rollout.passes import PassRunner
from rollforge.rollout.steps import Block
from rollforge.state import State, moved


class Replayed(Protocol):
    """A rollout that can take finished blocks as if it had made them now."""

    passes: PassRunner
    start: int

    @property
    def parts(self) -> Parts:
        """Its own components."""

    def prefill(self, given: Tensor | None) -> Iterator[Block]:
        """Lets the initial frames enter the memories."""

    def replay_block(self, latents: Tensor) -> None:
        """Takes a block that was finished before."""


def replay(run: Replayed, state: State, given: Tensor | None, finished: Iterable[Tensor]) -> Iterator[Block]:
    """Commits the ``finished`` latents again, and yields only initial blocks that have not been yielded.

    Afterwards the policy and the sampler hold what they held when ``state`` was saved: passes that are not run again
    may have changed them. A policy of another class or other arguments keeps what it learned from the commits.

    Raises:
        UserError: if the latents end before the state.
    """
    after, start, blocks = run.parts.copy(), state["start"], iter(finished)
    built = state.get("parts", {})
    alike = after.load_state_dict(state, built, run.passes.device) if built else {}
    for block in run.prefill(given):
        if block.start >= start:
            yield block
        elif next(blocks, None) is None:
            break
    for latents in blocks:
        run.replay_block(latents)
    if run.start < start:
        raise UserError(
            f"The saved latents end at frame {run.start}, the snapshot at frame {start}. Use an older snapshot."
        )
    if not alike.get("policy"):
        after.policy = run.parts.policy
    run.passes.restore(after, moved(state.get("backbone", {}), run.passes.device))
