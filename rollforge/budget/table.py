"""The budget: named lines of bytes, each on a device, against what is free there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


@dataclass(frozen=True)
class Line:
    """One thing that takes memory: what it is, its bytes, the device they are on, and how they come about."""

    name: str
    size: int
    device: str
    how: str = ""


@dataclass(frozen=True)
class Budget:
    """Everything that a rollout holds at once, and the bytes free for it on each device; None where nobody can say."""

    lines: tuple[Line, ...]
    free: Mapping[str, int | None]

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that are used, the busiest line's first."""
        return tuple(dict.fromkeys(line.device for line in self.lines))

    def needed(self, device: str) -> int:
        """Bytes on one device."""
        return sum(line.size for line in self.lines if line.device == device)

    def lacking(self, device: str) -> int:
        """Bytes that one device is short of; 0 where all fits, or where nobody can say."""
        free = self.free.get(device)
        return 0 if free is None else max(0, self.needed(device) - free)

    @property
    def fits(self) -> bool:
        """Whether every device has room."""
        return not any(map(self.lacking, self.devices))

    def table(self) -> str:
        """The lines of each device, their sum and what is free, as text."""
        name = max(len(line.name) for line in self.lines)
        rows: list[str] = []
        for device in self.devices:
            own = [line for line in self.lines if line.device == device]
            rows += [f"  {line.name:{name}}  {readable(line.size):>9}  {device}  {line.how}".rstrip() for line in own]
            rows.append(f"  {'in all':{name}}  {readable(self.needed(device)):>9}  {device}  {self._room(device)}")
        return "\n".join(rows)

    def _room(self, device: str) -> str:
        free = self.free.get(device)
        if free is None:
            return "what is free there is not known"
        lacking = self.lacking(device)
        return f"of {readable(free)} free" + (f": {readable(lacking)} too much" if lacking else "")


def readable(size: int) -> str:
    """Bytes in the largest decimal unit that leaves a whole number before the point."""
    for unit, bytes_in_it in UNITS:
        if size >= bytes_in_it:
            return f"{size / bytes_in_it:.2f} {unit}"
    return f"{size} B"
