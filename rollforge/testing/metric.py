"""The check of metrics."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor

from rollforge.metrics.base import Blocks, Metric
from rollforge.state import copied
from rollforge.testing.rules import expect, fail, keeping, same

Curves = dict[str, Tensor]
FPS, BLOCK = 8.0, 3


def check_metric(
    metric: Metric, *, prompt: str = "a red ball over snow at day", frames: int = 36, side: int = 64,
    tolerance: float = 1e-4,
) -> None:  # fmt: skip
    """Checks a metric with a video of moving noise.

    Args:
        metric: as a config would build it. It is copied, not changed.
        prompt: one that it understands.
        frames: of the video; a multiple of 6.
        side: height and width of the video.
        tolerance: how far curves may differ when the video comes in other pieces, relative to the largest value.

    Raises:
        CheckFailed: with the rule, the frame and the values.
    """
    video = _video(frames, side)
    other = _video(frames, side, seed=9)
    pieces = [BLOCK] * (frames // BLOCK)
    measured = _Measured(metric, prompt, tolerance)
    whole = measured.curves(deepcopy(metric), video, pieces)
    settled = {name: curve[metric.reference_frames :] for name, curve in whole.items()}
    for size in (1, 2 * BLOCK):
        split = measured.curves(deepcopy(metric), video, [size] * (frames // size))
        later = {name: curve[metric.reference_frames :] for name, curve in split.items()}
        measured.compare(
            "metric-split", f"In updates of {size}, from frame {metric.reference_frames} on", later, settled
        )
    used = deepcopy(metric)
    measured.curves(used, other, pieces)
    measured.compare("metric-again", "After another video", measured.curves(used, video, pieces), whole, exact=True)
    before = deepcopy(metric)
    for cut in range(1, len(pieces)):
        start = (cut - 1) * BLOCK
        measured.curves(before, video[start : start + BLOCK], pieces[cut - 1 : cut], first=start, started=cut > 1)
        after = deepcopy(metric)
        with keeping("metric-resume", metric, f"Cut after {cut} updates"):
            state = copied(before.state_dict())
            after.start(prompt, FPS, Blocks(BLOCK, BLOCK))
            after.load_state_dict(state)
        later = measured.curves(after, video[cut * BLOCK :], pieces[cut:], first=cut * BLOCK, started=True)
        expected = {name: curve[cut * BLOCK :] for name, curve in whole.items() if name in later}
        measured.compare("metric-resume", f"Cut after {cut} updates", later, expected, exact=True)


class _Measured:
    def __init__(self, metric: Metric, prompt: str, tolerance: float) -> None:
        self.metric, self.prompt, self.tolerance = metric, prompt, tolerance

    def curves(
        self, metric: Metric, video: Tensor, pieces: Sequence[int], first: int = 0, started: bool = False
    ) -> Curves:
        """The curves of a video that comes in ``pieces``."""
        if not started:
            metric.start(self.prompt, FPS, Blocks(BLOCK, BLOCK))
        parts: list[Curves] = []
        for piece in video.split(list(pieces)):
            parts.append(self._update(metric, piece, first))
            first += len(piece)
            self._figures(metric, first)
        names = dict.fromkeys(name for part in parts for name in part)
        nothing = [torch.full((size,), torch.nan) for size in pieces]
        return {
            name: torch.cat([part.get(name, empty).float() for part, empty in zip(parts, nothing, strict=True)])
            for name in names
        }

    def compare(self, rule: str, when: str, found: Curves, expected: Curves, exact: bool = False) -> None:
        """Fails where curves differ."""
        if found.keys() != expected.keys():
            fail(rule, self.metric, f"{when} the curves are {sorted(found)}, expected {sorted(expected)}.")
        for name, curve in found.items():
            same(rule, self.metric, f"{when}, in {name},", curve, expected[name], 0 if exact else self.tolerance)

    def _update(self, metric: Metric, piece: Tensor, start: int) -> Curves:
        given = piece.clone()
        with keeping("metric-curve", metric, f"At frame {start}"):
            curves = metric.update(given, start)
        same("metric-input", metric, f"After the update at frame {start}", given, piece)
        for name, curve in curves.items():
            if tuple(curve.shape) != (len(piece),):
                problem = f"At frame {start} the curve {name} is {list(curve.shape)} for {len(piece)} frames."
                fail("metric-curve", metric, problem)
        return curves

    def _figures(self, metric: Metric, frame: int) -> None:
        with keeping("metric-figures", metric, f"After {frame} frames"):
            figures = metric.finish()
        fits = all(isinstance(name, str) and isinstance(value, (int, float)) for name, value in figures.items())
        expect(fits, "metric-figures", metric, f"After {frame} frames finish answers {figures}.")


def _video(frames: int, size: int, seed: int = 5) -> Tensor:
    """Coarse noise that moves to the right, uint8 ``[T, H, W, 3]``."""
    coarse = torch.rand(1, 3, size // 8, size // 8, generator=torch.Generator().manual_seed(seed))
    picture = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")[0].permute(1, 2, 0)
    moved = [picture.roll(2 * n, dims=1) * (1 - 0.005 * n) for n in range(frames)]
    return (255 * torch.stack(moved)).to(torch.uint8)
