"""Seams: whether a block begins with a jump."""

from __future__ import annotations

from rollforge.metrics.frames import Frame, FrameMetric

NAN = float("nan")


class Seams(FrameMetric):
    """The step ``|x[t] - x[t-1]|`` into a block, over the steps inside blocks. Exact. 1 is seamless.

    Needs ``blocks`` at ``start`` (Wan: frames 9, 21, 33, ...; Pocket: 3, 6, 9, ...), and measures
    nothing without them.

    Curves:
        seam: at the first frame of a block, the step into it over the mean step inside the block before; else NaN.

    Whole video:
        seam_ratio: mean step into blocks over the mean step inside them. NaN where nothing moves inside.
    """

    def begin(self) -> None:
        self.inside, self.insides, self.across, self.seams = 0.0, 0, 0.0, 0
        self.last, self.lasts = 0.0, 0  # of the block before

    def look(self, frame: Frame) -> dict[str, float]:
        if not self.block:
            return {}
        begins = frame.index >= self.first_block and (frame.index - self.first_block) % self.block == 0
        ratio = NAN
        if frame.previous is None or begins:
            if frame.previous is not None:
                ratio = _over(frame.step, 1, self.last, self.lasts)
                self.across, self.seams = self.across + frame.step, self.seams + 1
            self.last, self.lasts = 0.0, 0
        else:
            self.inside, self.insides = self.inside + frame.step, self.insides + 1
            self.last, self.lasts = self.last + frame.step, self.lasts + 1
        return {"seam": ratio}

    def finish(self) -> dict[str, float]:
        return {"seam_ratio": _over(self.across, self.seams, self.inside, self.insides)} if self.block else {}


def _over(across: float, seams: int, inside: float, insides: int) -> float:
    """Mean over mean, NaN where either has none or nothing moves."""
    return (across / seams) / (inside / insides) if seams and inside > 0 else NAN
