"""The check of noise priors."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from rollforge.noise import NoisePrior, Shape
from rollforge.testing.rules import expect, fail, keeping, same

SHAPE: Shape = (4, 6, 8)
BLOCK = 3


def check_noise(
    noise: NoisePrior, *, shape: Shape = SHAPE, frames: int = 12, levels: int = 2, drawn: bool = True
) -> None:
    """Checks a noise prior.

    Args:
        noise: as a config would build it.
        shape: channels, height and width of one latent frame.
        frames: how many there are; a multiple of 3.
        levels: how many there are.
        drawn: whether the noise is drawn at random; one that is read from a file need not depend on the seed.

    Raises:
        CheckFailed: with the rule and the address.
    """
    blocks = [range(start, start + BLOCK) for start in range(0, frames, BLOCK)]
    places = [(block, level) for block in blocks for level in range(levels)]
    first = {place: _draw(noise, 3, 0, place, shape) for place in places}
    random.Random(0).shuffle(places)
    for place in places:
        with torch.random.fork_rng(devices=[]):
            before = torch.random.get_rng_state()
            again = _draw(noise, 3, 0, place, shape)
            moved = not torch.equal(before, torch.random.get_rng_state())
        same("noise-address", noise, f"Drawn again in another order, {_address(place)}", again, first[place])
        expect(not moved, "noise-address", noise, f"Drawing {_address(place)} moves torch's global generator.")
        batch = _batch(noise, 3, (0, 0), place, shape)
        for row in (0, 1):
            same("noise-address", noise, f"In row {row} of a batch, {_address(place)}", batch[row], first[place])
    if drawn:
        _random(noise, first, shape)


def _random(noise: NoisePrior, first: dict[tuple[range, int], Tensor], shape: Shape) -> None:
    values = torch.cat([each.flatten() for each in first.values()])
    mean, deviation = values.mean().item(), values.std().item()
    if abs(mean) > 0.2 or not 0.8 < deviation < 1.2:
        fail("noise-scale", noise, f"The mean is {mean:.3g} and the standard deviation {deviation:.3g}.")
    place = next(iter(first))
    for seed, sample in ((4, 0), (3, 1)):
        if torch.equal(_draw(noise, seed, sample, place, shape), first[place]):
            fail("noise-seed", noise, f"Seed {seed}, sample {sample} gives the noise of seed 3, sample 0.")


def _draw(noise: NoisePrior, seed: int, sample: int, place: tuple[range, int], shape: Shape) -> Tensor:
    with keeping("noise-shape", noise, _address(place)):
        drawn = noise.draw(seed, sample, place[0], place[1], shape)
    wanted = (len(place[0]), *shape)
    problem = f"{_address(place)} is {list(drawn.shape)}, {drawn.dtype}; expected finite float32 {list(wanted)}."
    fits = drawn.shape == wanted and drawn.dtype == torch.float32 and bool(drawn.isfinite().all())
    expect(fits, "noise-shape", noise, problem)
    return drawn


def _batch(noise: NoisePrior, seed: int, samples: tuple[int, ...], place: tuple[range, int], shape: Shape) -> Tensor:
    with keeping("noise-shape", noise, _address(place)):
        return noise.batch(seed, samples, place[0], place[1], shape)


def _address(place: tuple[range, int]) -> str:
    return f"The noise of frames {place[0].start} to {place[0].stop - 1}, level {place[1]},"
