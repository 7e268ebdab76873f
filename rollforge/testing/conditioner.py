"""The check of conditioners."""

from __future__ import annotations

from collections.abc import Sequence

from rollforge.backbones.base import Condition, Conditioner
from rollforge.testing.rules import expect, fail, keeping, same
from rollforge.testing.tiny import TOLERANCE


def check_conditioner(
    conditioner: Conditioner, prompts: Sequence[str] | None = None, *, tolerance: float = TOLERANCE
) -> None:
    """Checks a conditioner.

    Args:
        conditioner: as a config would build it, best with small random weights.
        prompts: two that it can express, unlike each other. Default: its ``examples``.
        tolerance: how far features may differ with the prompts next to them, relative to the largest value.

    Raises:
        CheckFailed: with the rule and the prompt.
    """
    prompts = conditioner.examples if prompts is None else prompts
    if len(prompts) != 2 or prompts[0] == prompts[1]:
        raise ValueError(f"check_conditioner needs two prompts that differ, not {prompts}.")
    with keeping("conditioner-check", conditioner, f"For {list(prompts)}"):
        conditioner.check(prompts)
    both = _features(conditioner, prompts)
    again = _features(conditioner, prompts)
    expect(both.id == again.id, "conditioner-id", conditioner, f"The id is {both.id!r}, then {again.id!r}.")
    same("conditioner-id", conditioner, "Asked again", again.embeds, both.embeds)
    swapped = _features(conditioner, prompts[::-1])
    problem = f"The prompts in the other order have the id {both.id!r} too."
    expect(swapped.id != both.id, "conditioner-id", conditioner, problem)
    singles = [_features(conditioner, [prompt]) for prompt in prompts]
    expect(
        len({both.id, *(each.id for each in singles)}) == 3, "conditioner-id", conditioner,
        f"{list(prompts)} have the id {both.id!r}, and one by one {[each.id for each in singles]}.",
    )  # fmt: skip
    for row, alone in enumerate(singles):
        length = min(alone.embeds.shape[1], both.embeds.shape[1])
        when = f"Next to another prompt, for {prompts[row]!r},"
        same("conditioner-batch", conditioner, when, both.embeds[row, :length], alone.embeds[0, :length], tolerance)


def _features(conditioner: Conditioner, prompts: Sequence[str]) -> Condition:
    with keeping("conditioner-rows", conditioner, f"For {list(prompts)}"):
        found = conditioner(list(prompts))
    if not isinstance(found, Condition) or not isinstance(found.id, str) or found.embeds.dim() != 3:
        fail("conditioner-rows", conditioner, f"For {list(prompts)} it answers {found!r:.80}.")
    problem = f"For {len(prompts)} prompts the features are {list(found.embeds.shape)}, or not finite."
    fits = len(found.embeds) == len(prompts) and bool(found.embeds.isfinite().all())
    expect(fits, "conditioner-rows", conditioner, problem)
    return found
