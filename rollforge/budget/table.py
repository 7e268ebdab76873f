"""The budget: named lines of bytes, each on a device and for some phases of the work, against what is free there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))

Phase = Literal["clips", "step", "update", "prompts", "opening", "pass", "decoding"]
ALWAYS: tuple[Phase, ...] = ("clips", "step", "update", "prompts", "opening", "pass", "decoding")
"""What follows each other. In training clips are encoded, then come forward and backward pass and the optimizer. In a
rollout prompts are encoded, the opening is encoded, then passes and decoding take turns."""
WHEN = {
    "clips": ", while clips are encoded",
    "step": ", in forward and backward pass",
    "update": ", while the optimizer works",
    "prompts": ", while prompts are encoded",
    "opening": ", while the opening is encoded",
}
ROLLING: tuple[Phase, ...] = ("pass", "decoding")


@dataclass(frozen=True)
class Line:
    """One thing that takes memory: what it is, its bytes, the device they are on, how they come about, and when."""

    name: str
    size: int
    device: str
    how: str = ""
    during: tuple[Phase, ...] = ALWAYS


@dataclass(frozen=True)
class Budget:
    """What a rollout or a training holds, and the bytes free for it on each device; None where that is not known."""

    lines: tuple[Line, ...]
    free: Mapping[str, int | None]

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that are used, the busiest line's first."""
        return tuple(dict.fromkeys(line.device for line in self.lines))

    def needed(self, device: str) -> int:
        """Bytes on one device in the phase that needs most."""
        return max(self._in(phase, device) for phase in ALWAYS)

    def lacking(self, device: str) -> int:
        """Bytes that one device is short of; 0 where all fits, or where nobody can say."""
        free = self.free.get(device)
        return 0 if free is None else max(0, self.needed(device) - free)

    @property
    def fits(self) -> bool:
        """Whether every device has enough free memory."""
        return not any(map(self.lacking, self.devices))

    @property
    def lacks_for_prompts(self) -> bool:
        """Whether it is the encoding of the prompts for which a device has too little memory."""
        return any(self.lacking(device) and self._busiest(device) == "prompts" for device in self.devices)

    def table(self) -> str:
        """The lines of each device, its peak and what is free, as text."""
        name = max(len(line.name) for line in self.lines)
        rows: list[str] = []
        for device in self.devices:
            own = [line for line in self.lines if line.device == device]
            rows += [f"  {line.name:{name}}  {readable(line.size):>9}  {device}  {line.how}".rstrip() for line in own]
            rows.append(f"  {'peak':{name}}  {readable(self.needed(device)):>9}  {device}  {self._available(device)}")
        return "\n".join(rows)

    def _in(self, phase: Phase, device: str) -> int:
        return sum(line.size for line in self.lines if line.device == device and phase in line.during)

    def _busiest(self, device: str) -> Phase:
        return max(reversed(ALWAYS), key=lambda phase: self._in(phase, device))

    def _available(self, device: str) -> str:
        when = WHEN.get(self._busiest(device), "")
        free = self.free.get(device)
        if free is None:
            return f"what is free there is not known{when}"
        lacking = self.lacking(device)
        return f"of {readable(free)} free{when}" + (f": {readable(lacking)} too much" if lacking else "")


def readable(size: int) -> str:
    """Bytes in the largest decimal unit that leaves an integer before the point."""
    for unit, bytes_in_it in UNITS:
        if size >= bytes_in_it:
            return f"{size / bytes_in_it:.2f} {unit}"
    return f"{size} B"
