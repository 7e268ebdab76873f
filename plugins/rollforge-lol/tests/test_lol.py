"""Per-head jitter: the formula, rollouts by brute force with complex numbers, resuming, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from brute import BruteMemory, check_rollout
from rollforge_lol import JitteredRope
from torch import Tensor
from toy_backbone import BLOCK, TOKENS, Toy, condition

from rollforge.errors import UserError
from rollforge.memory.base import Now
from rollforge.policies import AttentionSink, CachePolicy, RollingSink
from rollforge.positions import Rope
from rollforge.rollout import Rollout
from rollforge.samplers import FewStep
from rollforge.spec import ModelSpec
from rollforge.testing import check_positions, check_resume

SPEC = ModelSpec(4, 8, 8, (2, 2), 2, 12, 128, 3, 21, 21, 4.0)


def test_each_head_has_a_base_within_the_jitter_and_the_formula_s_frequencies() -> None:
    bases = JitteredRope().bases(SPEC)
    assert len(set(bases.tolist())) == 12
    assert 2000 <= bases.min() < 6000 < 14000 < bases.max() <= 18000
    many = JitteredRope().bases(replace(SPEC, heads=4000))
    assert many.mean() == pytest.approx(10000, rel=0.02)  # uniform: 8000 / sqrt(3) wide
    assert many.std() == pytest.approx(8000 / 3**0.5, rel=0.02)
    frequencies = JitteredRope().temporal(SPEC)
    expected = [[base ** (-2 * j / 44) for j in range(22)] for base in bases.tolist()]  # 44 of 128 channels are time
    torch.testing.assert_close(frequencies, torch.tensor(expected, dtype=torch.float64))


def test_the_draw_is_fixed_by_the_seed_alone() -> None:
    assert torch.equal(JitteredRope(seed=3).bases(SPEC), JitteredRope(seed=3).bases(SPEC))
    assert not torch.allclose(JitteredRope(seed=3).bases(SPEC), JitteredRope(seed=4).bases(SPEC))
    x = torch.randn(1, 3 * 16, 12, 128)
    plain, none = (rope.turn(x, rope.place(SPEC, (0, 7, 900))) for rope in (Rope(), JitteredRope(jitter=0)))
    torch.testing.assert_close(plain, none)


@pytest.mark.parametrize("policy", [RollingSink(2, 1), AttentionSink(2, 1)], ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("kv_heads", [2, 1])
def test_a_rollout_equals_brute_force_with_any_policy(policy: CachePolicy, kv_heads: int) -> None:
    toy, rope = Toy(kv_heads), JitteredRope(seed=5)
    toy.spec = replace(toy.spec, kv_heads=kv_heads)
    bases = rope.bases(toy.spec).tolist()
    assert len(bases) == kv_heads

    def turn(layer: int, x: Tensor, times: Sequence[float], now: Now) -> Tensor:
        """Of 8 channels 4 are time, 2 height, and 2 width."""
        made = []
        for head in range(x.shape[2]):
            base = bases[head * len(bases) // x.shape[2]]
            tokens = [(time, place // 2, place % 2) for time in times for place in range(TOKENS)]
            angles = torch.tensor([[t, t * base**-0.5, h, w] for t, h, w in tokens], dtype=torch.float64)
            pairs = torch.view_as_complex(x[:, :, head].double().unflatten(-1, (4, 2)).contiguous())
            made.append(torch.view_as_real(pairs * torch.exp(1j * angles)).flatten(-2))
        return torch.stack(made, dim=2).to(x.dtype)

    sampler = FewStep((1000,), shift=1.0, context_noise=20.0)
    rollout = Rollout(toy, policy, sampler, positions=rope)
    check_rollout(rollout, condition, BruteMemory(TOKENS, BLOCK, turn=turn), 10)


def test_positions_pass_the_kit_and_resume() -> None:
    check_positions(JitteredRope())
    check_resume(RollingSink(2, 1), positions=JitteredRope(), blocks=6)


def test_no_keys_are_kept_raw_for_it() -> None:
    run = Rollout(Toy(), AttentionSink(2, 1), FewStep((1000,), shift=1.0), positions=JitteredRope())(condition(0), 14)
    for _ in range(6):
        next(run)
    memory = run.passes.memories["prompt"]
    assert set(memory.raw) <= {8, 9}  # type: ignore[attr-defined] # no more than the last block that was committed


def test_jitter_out_of_range_is_refused() -> None:
    with pytest.raises(UserError, match="jitter must be a number of 0 or more and below 1, not 1"):
        JitteredRope(jitter=1)
