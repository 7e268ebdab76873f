"""Checks every finished block before it is yielded and committed: all later blocks depend on it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from rollforge.errors import UserError
from rollforge.ranges import Count, Positive, checked
from rollforge.spec import Step

log = logging.getLogger(__name__)

OTHER_SEED = 1_000_003  # added to the seed for each new attempt at a block


@checked
@dataclass(frozen=True)
class BlockCheck:
    """What happens to a block with values that are not finite, or too large for latents.

    Args:
        action: ``stop`` ends the rollout and keeps what was made before; ``warn`` logs a warning and continues;
            ``retry`` generates the block again from other noise, and stops if that does not help.
        limit: the largest absolute value of a valid latent; normalised latents have a standard deviation near 1.
        max_retries: how often ``retry`` tries again.
    """

    action: Literal["stop", "warn", "retry"] = "stop"
    limit: Positive = 50.0
    max_retries: Count = 3

    def bad_rows(self, step: Step, latents: Tensor, attempts: Sequence[int], seconds: float) -> list[int]:
        """Rows of a batch whose block must be generated again.

        Args:
            step: the block's.
            latents: the block, ``[B, F, C, H, W]``.
            attempts: how often each row has been generated again so far.
            seconds: where the block starts in the video.

        Raises:
            UserError: with the statistics of the block, where the rollout must stop.
        """
        largest = latents.detach().float().abs().flatten(1).amax(1).tolist()  # nan where a row has one
        rows = [row for row, value in enumerate(largest) if not value <= self.limit]
        return [row for row in rows if not self._accepts(step, latents[row], attempts[row], seconds)]

    def _accepts(self, step: Step, latents: Tensor, attempt: int, seconds: float) -> bool:
        """Whether a block beyond the limit, ``[F, C, H, W]``, is used all the same."""
        message = f"Block {step.index} (at {seconds:.1f} s) {_wrong(latents, self.limit)}"
        if self.action == "warn":
            log.warning("%s; the rollout continues, as model.block_check says.", message)
            return True
        if self.action == "retry" and attempt < self.max_retries:
            log.warning("%s; it is made again from other noise (%d of %d).", message, attempt + 1, self.max_retries)
            return False
        tried = f" and {attempt} other attempts were no better" if attempt else ""
        raise UserError(
            f"{message}{tried}; check weights, precision and guidance, or set model.block_check.action to 'warn' "
            "to continue with such blocks."
        )


def _wrong(latents: Tensor, limit: float) -> str:
    """What is wrong with a block, and its statistics."""
    values = latents.detach().float()
    finite = values[values.isfinite()]
    bad = values.numel() - finite.numel()
    figures = (
        f"mean {finite.mean().item():.3g}, standard deviation {finite.std(unbiased=False).item():.3g}, largest "
        f"{finite.abs().amax().item():.3g}"
        if finite.numel()
        else "none is finite"
    )
    what = f"holds {bad} of {values.numel()} numbers that are not finite" if bad else f"exceeds {limit:g}"
    return f"{what} (of the finite ones: {figures})" if bad and finite.numel() else f"{what} ({figures})"
