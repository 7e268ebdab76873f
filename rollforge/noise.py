"""Noise priors: every draw is a function of (seed, sample, frame, level), so it never depends on call order.

The same seed therefore gives the same first minute whatever the total length, and a batch equals runs of one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor

from rollforge.errors import UserError
from rollforge.ranges import Checked, CountFromZero, Share, UserPath

Shape = tuple[int, int, int]


def normal(seed: int, sample: int, frame: int, level: int, shape: Shape) -> Tensor:
    """Standard normal float32 ``shape`` on the CPU, a function of its address alone."""
    digest = blake2b(f"{seed}/{sample}/{frame}/{level}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    return torch.randn(shape, generator=generator)


class NoisePrior(Checked, ABC):
    """Draws the noise of a block. Level 0 is the first noise; level n the fresh noise after denoising step n."""

    @abstractmethod
    def draw(self, seed: int, sample: int, frames: range, level: int, shape: Shape) -> Tensor:
        """Noise ``[F, C, H, W]`` for one sample's block of ``frames``."""

    def batch(self, seed: int, samples: Sequence[int], frames: range, level: int, shape: Shape) -> Tensor:
        """Noise ``[B, F, C, H, W]``, one row for each sample."""
        return torch.stack([self.draw(seed, sample, frames, level, shape) for sample in samples])


class IndependentNoise(NoisePrior):
    """Draws every frame of every level independently (the baseline of the field)."""

    def draw(self, seed: int, sample: int, frames: range, level: int, shape: Shape) -> Tensor:
        return torch.stack([normal(seed, sample, frame, level, shape) for frame in frames])


class RepeatedNoise(IndependentNoise):
    """Starts every block from the first block's noise, as Rolling Sink's released code. Later levels draw new noise."""

    def draw(self, seed: int, sample: int, frames: range, level: int, shape: Shape) -> Tensor:
        return super().draw(seed, sample, range(len(frames)) if level == 0 else frames, level, shape)


class PerturbedNoise(NoisePrior):
    """The noise of ``base`` but for the first noise of one block, for twin runs that differ in nothing else.

    That block starts from ``sqrt(1 - strength^2) z + strength z'``, of the same variance, with ``z'`` drawn
    independently.

    Args:
        base: what is perturbed. Default: ``IndependentNoise``.
        frame: a latent frame; the block that holds it is perturbed.
        strength: 0 changes nothing, 1 draws the block again.
    """

    def __init__(self, base: NoisePrior | None = None, frame: CountFromZero = 0, strength: Share = 0.1) -> None:
        self.base, self.frame, self.strength = base or IndependentNoise(), frame, strength

    def draw(self, seed: int, sample: int, frames: range, level: int, shape: Shape) -> Tensor:
        drawn = self.base.draw(seed, sample, frames, level, shape)
        if level or self.frame not in frames:
            return drawn
        other = torch.stack([normal(seed, sample, frame, -1, shape) for frame in frames])
        return (1 - self.strength**2) ** 0.5 * drawn + self.strength * other


class FixedNoise(NoisePrior):
    """Reads the noise from a safetensors file, to repeat a published run.

    Args:
        file: holds ``noise`` ``[B, F, C, H, W]`` and ``renoise`` ``[blocks, levels, B, block, C, H, W]``.
    """

    def __init__(self, file: UserPath) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not Path(file).is_file():
            raise UserError(
                f"FixedNoise: there is no file {file}; expected a safetensors file with 'noise' and 'renoise'."
            )
        try:
            tensors = load_file(file)
        except SafetensorError as error:
            raise UserError(f"FixedNoise: {file} is not a readable safetensors file ({error}).") from error
        if absent := {"noise", "renoise"} - tensors.keys():
            raise UserError(f"FixedNoise: {file} has no tensor {sorted(absent)[0]!r}; it needs 'noise' and 'renoise'.")
        self.noise, self.renoise = tensors["noise"], tensors["renoise"]

    def draw(self, seed: int, sample: int, frames: range, level: int, shape: Shape) -> Tensor:
        wanted = f"noise for sample {sample}, frames {frames.start}..{frames.stop - 1}, level {level}"
        try:
            if level == 0:
                drawn = self.noise[sample, frames.start : frames.stop]
            else:
                drawn = self.renoise[frames.start // len(frames), level - 1, sample]
        except IndexError as error:
            raise UserError(f"FixedNoise: the file has no {wanted}.") from error
        if drawn.shape != (len(frames), *shape):
            raise UserError(
                f"FixedNoise: the file gives {list(drawn.shape)} as {wanted}; the model needs {[len(frames), *shape]}."
            )
        return drawn
