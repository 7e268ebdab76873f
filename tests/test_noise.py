"""Noise has an address: nothing but seed, sample, frame and level decides it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from rollforge.errors import UserError
from rollforge.noise import FixedNoise, IndependentNoise, PerturbedNoise, RepeatedNoise

SHAPE = (2, 3, 4)
addresses = st.tuples(st.integers(0, 2**40), st.integers(0, 10**6), st.integers(0, 10**7), st.integers(0, 50))


def at(address: tuple[int, int, int, int]) -> torch.Tensor:
    seed, sample, frame, level = address
    return IndependentNoise().draw(seed, sample, range(frame, frame + 1), level, SHAPE)


@settings(deadline=None, max_examples=60)
@given(addresses, addresses)
def test_one_address_one_noise(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> None:
    first = at(one)
    torch.randn(3)  # the global generator plays no part
    assert torch.equal(first, at(one))
    assert torch.equal(first, at(other)) == (one == other)


@pytest.mark.parametrize("place", range(4))
def test_every_part_of_the_address_counts(place: int) -> None:
    drawn = [at(tuple(11 + n * (part == place) for part in range(4))) for n in range(20)]  # type: ignore[arg-type]
    assert all(not torch.equal(a, b) for n, a in enumerate(drawn) for b in drawn[:n])


def test_neighbouring_addresses_are_not_joined_by_accident() -> None:
    assert not torch.equal(at((1, 11, 1, 1)), at((11, 1, 1, 1)))
    assert not torch.equal(at((1, 1, 11, 1)), at((1, 1, 1, 11)))


def test_drawing_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    IndependentNoise().batch(0, [0, 1], range(3), 0, SHAPE)
    assert torch.equal(torch.randn(4), expected)


@pytest.mark.parametrize("prior", [IndependentNoise(), RepeatedNoise()], ids=lambda prior: type(prior).__name__)
@pytest.mark.parametrize("level", [0, 2])
def test_noise_is_the_same_in_any_batch(prior: IndependentNoise, level: int) -> None:
    batch = prior.batch(5, [4, 0, 7], range(6, 9), level, SHAPE)
    assert batch.shape == (3, 3, *SHAPE)
    for row, sample in enumerate([4, 0, 7]):
        assert torch.equal(batch[row], prior.batch(5, [sample], range(6, 9), level, SHAPE)[0])


def test_noise_is_the_same_in_any_block_size() -> None:
    whole = IndependentNoise().draw(0, 0, range(6), 1, SHAPE)
    singles = [IndependentNoise().draw(0, 0, range(n, n + 1), 1, SHAPE) for n in range(6)]
    assert torch.equal(whole, torch.cat(singles))


def test_noise_is_standard_normal() -> None:
    noise = IndependentNoise().batch(0, range(8), range(8), 0, (4, 16, 16)).flatten(0, 1)
    assert noise.dtype == torch.float32
    assert noise.mean().abs() < 0.02
    assert (noise.std() - 1).abs() < 0.02
    correlation = torch.corrcoef(noise.flatten(1)) - torch.eye(64)
    assert correlation.abs().max() < 0.16  # five standard deviations of 1 / 32


def test_repeated_noise_starts_every_block_alike_and_renoises_afresh() -> None:
    prior, plain = RepeatedNoise(), IndependentNoise()
    first = plain.draw(1, 2, range(3), 0, SHAPE)
    for start in (0, 3, 300):
        block = range(start, start + 3)
        assert torch.equal(prior.draw(1, 2, block, 0, SHAPE), first)
        assert torch.equal(prior.draw(1, 2, block, 1, SHAPE), plain.draw(1, 2, block, 1, SHAPE))
    assert not torch.equal(prior.draw(1, 3, range(3), 0, SHAPE), first)
    assert not torch.equal(prior.draw(2, 2, range(3), 0, SHAPE), first)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    file = tmp_path / "inputs.safetensors"
    save_file({"noise": torch.randn(2, 6, *SHAPE), "renoise": torch.randn(2, 3, 2, 3, *SHAPE)}, file)
    return file


def test_fixed_noise_reads_each_number_where_the_file_has_it(published: Path) -> None:
    prior = FixedNoise(str(published))
    batch = prior.batch(0, [1, 0], range(3, 6), 0, SHAPE)
    assert torch.equal(batch, prior.noise[[1, 0], 3:6])
    for level in (1, 2, 3):
        assert torch.equal(prior.batch(9, [1, 0], range(3, 6), level, SHAPE), prior.renoise[1, level - 1, [1, 0]])


def test_fixed_noise_says_what_the_file_lacks(published: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gives \[0, 2, 3, 4\] as noise for .* frames 6\.\.8.* needs \[3, 2, 3, 4\]"):
        FixedNoise(str(published)).draw(0, 0, range(6, 9), 0, SHAPE)
    with pytest.raises(UserError, match="there is no file"):
        FixedNoise(str(tmp_path / "absent.safetensors"))
    save_file({"noise": torch.zeros(1)}, tmp_path / "half.safetensors")
    with pytest.raises(UserError, match="has no tensor 'renoise'"):
        FixedNoise(str(tmp_path / "half.safetensors"))
    (tmp_path / "text.safetensors").write_text("not tensors")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        FixedNoise(str(tmp_path / "text.safetensors"))


@pytest.mark.parametrize(("frames", "level", "sample"), [(range(6, 9), 1, 0), (range(3), 4, 0), (range(3), 0, 2)])
def test_fixed_noise_that_runs_out_is_an_error_in_a_sentence(
    published: Path, frames: range, level: int, sample: int
) -> None:
    with pytest.raises(UserError, match="FixedNoise"):
        FixedNoise(str(published)).draw(0, sample, frames, level, SHAPE)


def test_a_perturbed_twin_differs_in_the_first_noise_of_one_block_alone() -> None:
    plain, twin = IndependentNoise(), PerturbedNoise(frame=7, strength=0.6)
    for start in (0, 3, 6, 9):
        block = range(start, start + 3)
        assert torch.equal(twin.draw(1, 2, block, 0, SHAPE), plain.draw(1, 2, block, 0, SHAPE)) == (start != 6)
        assert torch.equal(twin.draw(1, 2, block, 1, SHAPE), plain.draw(1, 2, block, 1, SHAPE))
    block, large = range(6, 9), (16, 32, 32)
    one, other = (prior.draw(1, 2, block, 0, large).flatten() for prior in (plain, twin))
    assert torch.corrcoef(torch.stack([one, other]))[0, 1] == pytest.approx(0.8, abs=0.01)  # sqrt(1 - .6^2)
    assert other.std() == pytest.approx(1, abs=0.02)
    repeated = PerturbedNoise(RepeatedNoise(), frame=7)
    assert torch.equal(repeated.draw(0, 0, range(9, 12), 0, SHAPE), plain.draw(0, 0, range(3), 0, SHAPE))
