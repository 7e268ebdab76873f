"""How fast a training is, and its memory, between two reports. Both differ from run to run: no checkpoint has them."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import torch

from rollforge.files.reading import MANIFEST, read_text
from rollforge.files.writing import write

NAMES = ("steps_per_second", "clips_per_second", "memory_bytes")


class Speed:
    """Steps and clips a second since the last report, and the most memory that the process has held.

    Args:
        file: the table, which a resumed training continues.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.rows = file, list[str]()
        self.step = self.clips = 0
        self.start = time.perf_counter()

    def begin(self, step: int) -> None:
        """At the step that the training starts from."""
        if step and self.file.exists():
            rows = [(row.partition(",")[0], row) for row in read_text(self.file, MANIFEST, "table").splitlines()]
            self.rows = [row for number, row in rows if number.isdecimal() and int(number) <= step]
        self.restart(step)

    def restart(self, step: int) -> None:
        """After a report, whose time does not count."""
        self.step, self.clips, self.start = step, 0, time.perf_counter()

    def report(self, step: int, device: torch.device) -> dict[str, float]:
        """Writes a row and returns it by name; nothing where there was no step since the last one."""
        if step <= self.step:
            return {}
        seconds = time.perf_counter() - self.start
        values = (step - self.step) / seconds, self.clips / seconds, float(peak_memory(device))
        self.rows.append(f"{step},{values[0]:.4g},{values[1]:.4g},{values[2]:.0f}")
        write(self.file, "\n".join([",".join(("step", *NAMES)), *self.rows, ""]))
        return dict(zip(NAMES, values, strict=True))


def peak_memory(device: torch.device) -> int:
    """Bytes: of the tensors on a CUDA card, elsewhere of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
