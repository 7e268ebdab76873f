"""How FreqForcing joins a local read and one of early frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rollforge.devices import sent
from rollforge.memory import Combine
from rollforge.memory.base import Now
from rollforge.ranges import NonNegative, Positive
from rollforge.spec import ModelSpec


class LowPassBlend(Combine):
    """Moves the low frequencies of the first branch towards those of the mean of the others.

    ``A = A_0 + gain * H(A_1 - A_0)``, where H is a Gaussian low-pass over time, height and width of the tokens of a
    pass: the spectrum is multiplied by ``exp(-|f| ** 2 / (2 * sigma ** 2))``, with frequencies in cycles per token.
    Source: FreqForcing (arXiv 2607.27110); that the filter is this function of the FFT is our reading.

    Args:
        gain: how far the lowest frequencies are moved: 0 is the first branch alone, 1 all the way.
        sigma: width of the filter in cycles per token.
    """

    def __init__(self, gain: NonNegative = 0.6, sigma: Positive = 0.125) -> None:
        self.gain, self.sigma = gain, sigma

    def __call__(self, outputs: Sequence[Tensor], layer: int, spec: ModelSpec, now: Now) -> Tensor:
        first, *others = outputs
        towards = sum(others[1:], others[0]) / len(others) - first
        grid = (first.shape[1] // spec.tokens, *spec.grid)  # frames, rows and columns
        spectrum = torch.fft.fftn(towards.float().unflatten(1, grid), dim=(1, 2, 3))
        kept = sent(self._response(grid), first.device)[None, ..., None, None]  # of heads and channels
        low = torch.fft.ifftn(spectrum * kept, dim=(1, 2, 3)).real.flatten(1, 3)
        return (first + self.gain * low).to(first.dtype)

    def _response(self, grid: tuple[int, int, int]) -> Tensor:
        """What each frequency is multiplied by, in the shape of the grid."""
        axes = torch.meshgrid(*(torch.fft.fftfreq(length) for length in grid), indexing="ij")
        return torch.exp(-sum((axis**2 for axis in axes), torch.zeros(grid)) / (2 * self.sigma**2))
