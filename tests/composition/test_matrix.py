"""Policy x positions x noise x sampler x KV codec x backbone: what fits rolls, what does not is refused.

The fast test rolls few combinations in which every valid pair of parts occurs; with ``-m matrix`` every policy, sampler
and backbone meet, and the other parts take turns.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, product
from typing import Any

import pytest
import torch
from packages import PACKAGES, importable, installed
from pairs import Chosen, Pair, pairwise
from parts import BLOCKS, KINDS, Parts, collected
from torch import Tensor

from rollforge.errors import UserError
from rollforge.memory import BlendBranches
from rollforge.noise import FixedNoise
from rollforge.policies import CachePolicy
from rollforge.rollout import Rollout
from rollforge.spec import Step

importable()
ROLLED = sorted(
    PACKAGES.keys()
    - {
        "rollforge-features",
        "rollforge-inspect",
        "rollforge-motion",
        "rollforge-persistence",
        "rollforge-skyreels",
        "rollforge-upscale",
        "rollforge-vbench",
        "rollforge-wan22",
    }
)
USUAL = dict(
    zip(KINDS, ("Window", "(its own)", "IndependentNoise", "FewStep", "IdentityKVCodec", "Pocket"), strict=True)
)

THE_SAME: Pair = (("positions", "(its own)"), ("backbone", "FrameTransformer"))
"""Its own positions are FixedPositions, which are combined under that name."""


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with installed(ROLLED, tmp_path_factory.mktemp("site")):
        yield collected(tmp_path_factory.mktemp("noise"))
    torch.set_num_threads(before)


def rolled(parts: Parts, chosen: Chosen) -> None:
    """Rolls past the window of the policy. Raises ``UserError`` before the first block, or not at all."""
    backbone, text = parts.make["backbone"][chosen["backbone"]]()
    policy, sampler = parts.make["cache"][chosen["cache"]](), parts.make["sampler"][chosen["sampler"]]()
    more = {kind: parts.make[kind][chosen[kind]]() for kind in ("positions", "noise", "kv_codec")}
    if isinstance(file := more["noise"], FixedNoise):  # made for four channels
        file.noise, file.renoise = (each[..., : backbone.spec.channels, :, :] for each in (file.noise, file.renoise))
    more["combine"] = BlendBranches() if policy.branches > 1 else None
    if policy.reencodes:
        more["encode"] = lambda frame: torch.full((1, 1, *backbone.spec.latent_shape), 0.1 * frame)
    negative = text if "negative" in sampler.guidance_branches else None
    run = Rollout(backbone, policy, sampler, **more)(text, BLOCKS * backbone.spec.block, negative=negative)
    made: list[Tensor] = []
    try:
        made.extend(block.latents for block in run)
    except UserError as error:
        if made:
            raise AssertionError(f"{chosen} was refused after {len(made)} blocks") from error
        raise
    assert len(made) == BLOCKS, chosen
    assert all(bool(latents.isfinite().all()) for latents in made), chosen


def moves_frames(policy: CachePolicy) -> bool:
    """Whether a plan has a frame, or the block, at another time index than its own."""
    plans = [(start, policy.plan(Step.of(start, 1))) for start in range(BLOCKS)]
    return policy.shifts or any(
        plan.query != start or any(0 <= f != t for f, t in plan.entries()) for start, plan in plans
    )


def refused(parts: Parts, pair: Pair) -> bool:
    """Whether a pair cannot work, by what the two say of themselves."""
    found = dict(pair)
    made: dict[str, Any] = {kind: parts.make[kind][name]() for kind, name in found.items()}
    policy = made.get("cache")
    if policy is None:
        return False
    if (positions := made.get("positions")) is not None:
        return not positions.movable and moves_frames(policy)
    if (sampler := made.get("sampler")) is not None:
        steps = sum(level > 0 for level in sampler.timesteps)
        return (bool(sampler.timesteps) and steps < policy.denoising_steps) or (
            bool(policy.observes) and not sampler.recomputes
        )
    if "backbone" in made:
        backbone, _ = made["backbone"]
        return bool({*policy.sees} & {*backbone.hides})
    return False


def invalid(parts: Parts) -> dict[Pair, bool]:
    """Every pair of a policy and another part, and whether it cannot work."""
    others = [(kind, name) for kind in KINDS[1:] for name in parts.names(kind)]
    pairs = [(("cache", policy), other) for policy in parts.names("cache") for other in others]
    return {pair: refused(parts, pair) for pair in pairs}


def test_every_valid_pair_rolls_and_every_other_is_refused_in_a_sentence_that_names_both(parts: Parts) -> None:
    wrong = invalid(parts)
    values = {kind: parts.names(kind) for kind in KINDS}
    for chosen in pairwise(values, lambda pair: pair != THE_SAME and not wrong.get(pair, False)):
        rolled(parts, chosen)
    for pair in (pair for pair, bad in wrong.items() if bad):
        check_refused(parts, USUAL | dict(pair), pair)


def check_refused(parts: Parts, chosen: Chosen, pair: Pair) -> None:
    with pytest.raises(UserError) as failure:
        rolled(parts, chosen)
    message = str(failure.value)
    assert all(name in message for _, name in pair), (pair, message)
    assert message.endswith(".")
    assert "\n" not in message


@pytest.mark.matrix
@pytest.mark.parametrize("backbone", ["Pocket", "Wan", "FrameTransformer"])
def test_every_policy_and_sampler_roll_or_are_refused(parts: Parts, backbone: str) -> None:
    wrong = invalid(parts)
    others = zip(*(cycle(parts.names(kind)) for kind in ("positions", "noise", "kv_codec")), strict=False)
    for names, (positions, noise, kv_codec) in zip(
        product(parts.names("cache"), parts.names("sampler")), others, strict=False
    ):
        chosen = dict(zip(("cache", "sampler"), names, strict=True))
        chosen |= {"positions": positions, "noise": noise, "kv_codec": kv_codec, "backbone": backbone}
        if positions == "(its own)" and backbone == "FrameTransformer":
            chosen["positions"] = "FixedPositions"  # which are its own
        bad = [pair for pair in wrong if wrong[pair] and all(chosen[kind] == name for kind, name in pair)]
        if bad:
            with pytest.raises(UserError) as failure:
                rolled(parts, chosen)
            assert any(all(name in str(failure.value) for _, name in pair) for pair in bad), failure.value
        else:
            rolled(parts, chosen)
