"""Rotary embedding against complex multiplication in float64."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rollforge.memory import Rope
from rollforge.positions.rope import rotate, split_pairs
from rollforge.spec import ModelSpec, Step

CPU = torch.device("cpu")
FAR = [8_191, 8_192, 100_000, 1_000_000]


def spec_of(rows: int = 3, columns: int = 2, head_dim: int = 32) -> ModelSpec:
    return ModelSpec(1, 2 * rows, 2 * columns, (2, 2), 1, 2, head_dim, 1, 4, 4, 4.0)


def reference(x: Tensor, spec: ModelSpec, times: Sequence[float], theta: float = 10000.0) -> Tensor:
    """Turns every channel pair, seen as a complex number, by position times ``theta ** (-2j / axis dim)``."""
    axis = 2 * (spec.head_dim // 6)
    dims = spec.head_dim - 2 * axis, axis, axis
    places = [(time, row, column) for time in times for row in range(spec.grid[0]) for column in range(spec.grid[1])]
    angles = [
        [place[n] * theta ** (-2 * j / dim) for n, dim in enumerate(dims) for j in range(dim // 2)] for place in places
    ]
    turn = torch.polar(torch.ones(1, dtype=torch.float64), torch.tensor(angles, dtype=torch.float64))
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turn[:, None]).flatten(-2)


def tokens(spec: ModelSpec, frames: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, frames * spec.tokens, spec.heads, spec.head_dim, generator=generator)


@pytest.mark.parametrize("head_dim", [2, 4, 6, 10, 12, 32, 128])
def test_wan_splits_the_pairs_into_time_and_space(head_dim: int) -> None:
    axis = 2 * (head_dim // 6)
    assert [2 * pairs for pairs in split_pairs(head_dim)] == [head_dim - 2 * axis, axis, axis]


@settings(deadline=None, max_examples=25)
@given(
    times=st.lists(st.one_of(st.integers(-5, 40), st.integers(0, 10**6), st.sampled_from(FAR)), min_size=1, max_size=4),
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    head_dim=st.sampled_from([4, 10, 12, 32]),
)
def test_any_times_on_any_grid_equal_float64(times: list[int], rows: int, columns: int, head_dim: int) -> None:
    spec = spec_of(rows, columns, head_dim)
    x = tokens(spec, len(times))
    turned = rotate(x, Rope().rotation(spec, times, CPU))
    torch.testing.assert_close(turned.double(), reference(x, spec, times), rtol=0, atol=2e-6)


@pytest.mark.parametrize("frame", FAR)
def test_positions_beyond_any_table_stay_exact(frame: int) -> None:
    spec = spec_of(head_dim=128)
    x = tokens(spec, 2)
    turned = rotate(x, Rope().rotation(spec, [frame, frame + 1], CPU))
    torch.testing.assert_close(turned.double(), reference(x, spec, [frame, frame + 1]), rtol=0, atol=2e-6)
    assert not torch.allclose(turned[:, : spec.tokens], rotate(x, Rope().rotation(spec, [0, 1], CPU))[:, : spec.tokens])


@settings(deadline=None, max_examples=30)
@given(query=st.integers(0, 60), key=st.integers(0, 60), shift=st.one_of(st.integers(1, 10**6), st.sampled_from(FAR)))
def test_scores_depend_on_the_distance_alone(query: int, key: int, shift: int) -> None:
    spec, rope = spec_of(), Rope()
    q, k = tokens(spec, 1, seed=1), tokens(spec, 1, seed=2)

    def scores(q_time: int, k_time: int) -> Tensor:
        rotated = rotate(q, rope.rotation(spec, [q_time], CPU)), rotate(k, rope.rotation(spec, [k_time], CPU))
        return torch.einsum("bqhd,bkhd->bhqk", *rotated)

    near = scores(query, key)
    torch.testing.assert_close(scores(query + shift, key + shift), near, rtol=0, atol=2e-5)
    assert not torch.allclose(scores(query + 1, key), near, atol=1e-3)


def test_theta_is_the_base_of_all_three_axes() -> None:
    spec, times = spec_of(), [3, 700]
    x = tokens(spec, 2)
    turned = rotate(x, Rope(theta=500.0).rotation(spec, times, CPU))
    torch.testing.assert_close(turned.double(), reference(x, spec, times, theta=500.0), rtol=0, atol=2e-6)


def test_a_transform_may_give_each_head_its_own_time() -> None:
    class HalfSpeedHead(Rope):
        def temporal(self, spec: ModelSpec, step: Step | None = None) -> Tensor:
            plain = super().temporal(spec, step)
            return torch.stack([plain, plain * 0.5])

    spec, times = spec_of(), [8, 90]
    x = tokens(spec, 2)
    turned = rotate(x, HalfSpeedHead().rotation(spec, times, CPU)).double()
    torch.testing.assert_close(turned[:, :, 0], reference(x, spec, times)[:, :, 0], rtol=0, atol=2e-6)
    halved = [time / 2 for time in times]
    torch.testing.assert_close(turned[:, :, 1], reference(x, spec, halved)[:, :, 1], rtol=0, atol=2e-6)


def test_half_precision_is_rotated_in_float32() -> None:
    spec = spec_of()
    x = tokens(spec, 1).bfloat16()
    turned = rotate(x, Rope().rotation(spec, [1_000_000], CPU))
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned, reference(x, spec, [1_000_000]).float().bfloat16())
