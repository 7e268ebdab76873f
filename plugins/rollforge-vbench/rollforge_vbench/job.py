"""What is asked of VBench: the flags, the dimensions and the rules they must keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rollforge.errors import UserError
from rollforge_vbench.clips import SECONDS, ranges
from rollforge_vbench.dimensions import ALL, CONSISTENCY, CUSTOM, dimension
from rollforge_vbench.sources import Source

Mode = Literal["custom", "standard"]


@dataclass(frozen=True)
class Job:
    """One scoring.

    Args:
        dimensions: what to measure.
        mode: ``custom`` for any videos; ``standard`` for those of VBench's own prompts.
        long: VBench-Long.
        long_range: VBench-Long's ``--dev_flag``, without which consistency over the whole video is silently left out.
        clip_seconds: length of the clips of VBench-Long; its own lengths where 0.
        cut: cuts here and losslessly, instead of letting VBench-Long cut and encode again.
        static_filter: leaves videos that stand still out of temporal flickering (standard suite of VBench-Long).
        device: where VBench computes.
    """

    dimensions: tuple[str, ...]
    mode: Mode = "custom"
    long: bool = False
    long_range: bool = True
    clip_seconds: int = 0
    cut: bool = False
    static_filter: bool = True
    device: str = "cuda"

    @property
    def vbench_mode(self) -> str:
        """The name of the mode in VBench."""
        names = {"custom": "custom_input", "standard": "vbench_standard"}
        return f"long_{names[self.mode]}" if self.long else names[self.mode]

    @classmethod
    def asked(cls, names: Sequence[str], mode: Mode, **flags: int | bool | str) -> Job:
        """A job for those dimensions, or for all that the mode allows.

        Raises:
            UserError: for dimensions or flags that the mode does not have.
        """
        wanted = tuple(dict.fromkeys(dimension(name) for name in names)) or (CUSTOM if mode == "custom" else tuple(ALL))
        job = cls(wanted, mode, **flags)  # type: ignore[arg-type] # names and types come from the parser
        beyond = [name for name in wanted if mode == "custom" and name not in CUSTOM]
        if beyond:
            raise UserError(
                f"VBench has no {', '.join(beyond)} for videos of any prompt; use --mode standard with VBench's own "
                f"prompts, or ask for some of {', '.join(CUSTOM)}."
            )
        if not job.long and (job.cut or job.clip_seconds):
            raise UserError("--cut and --clip_seconds are about VBench-Long's clips; add --long or leave them out.")
        if job.cut and "temporal_flickering" in wanted:
            raise UserError("VBench-Long cuts for temporal_flickering itself; leave --cut or that dimension out.")
        if job.clip_seconds and mode == "custom" and not job.cut:
            raise UserError(f"VBench-Long cuts custom videos to {SECONDS} s whatever is asked; add --cut.")
        return job

    def check(self, videos: Sequence[Source]) -> list[str]:
        """Notes on these videos that belong into the result.

        Raises:
            UserError: where VBench-Long would count a video's long-range consistency as 0 without saying so.
        """
        notes: list[str] = []
        kinds = {(v.info.fps, v.info.width, v.info.height) for v in videos}
        if len(kinds) > 1:
            notes.append("videos differ in frame rate or size")
        if not self.long:
            return notes
        fractions = sorted({v.info.fps for v in videos if v.info.fps != int(v.info.fps)})
        if fractions:
            notes.append(f"VBench-Long rounds frame rates down ({', '.join(f'{fps:g}' for fps in fractions)})")
        seconds = self.clip_seconds or SECONDS
        single = [v.path.name for v in videos if len(ranges(v.info.frames, v.info.fps, seconds)) == 1]
        if single and set(self.dimensions) & set(CONSISTENCY):
            raise UserError(
                f"{', '.join(single)}: only one clip of {seconds} s each, so that VBench-Long has no second one to "
                "compare with and would count 0; make longer videos, choose shorter clips, or leave --long out."
            )
        return notes
