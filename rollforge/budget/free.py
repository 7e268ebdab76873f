"""What is free: of a GPU's memory as its driver says, of the machine's as the kernel says."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

MEMORY = Path("/proc/meminfo")
GROUP = Path("/sys/fs/cgroup")  # a container's limits


def free_memory(device: str) -> int | None:
    """Bytes that this process may come to use on ``device``; None if that is unknown.

    On CUDA what the process holds there already counts as free for it.
    """
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    if device != "cpu":
        return None
    known = [free for free in (_available(), _left_in_group()) if free is not None]
    return min(known) if known else None


def bytes_on(device: str, modules: Iterable[nn.Module]) -> int:
    """Bytes of the parameters and buffers of ``modules`` that are on ``device`` already."""
    return sum(
        tensor.nbytes
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
        if str(tensor.device) == device
    )


def _available() -> int | None:
    try:
        for line in MEMORY.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def _left_in_group() -> int | None:
    """What a container's limit leaves, pages of files that the kernel would drop included."""
    try:
        limit, used = (int((GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        lines = (GROUP / "memory.stat").read_text().splitlines()
        kept = sum(int(line.split()[1]) for line in lines if line.startswith(("inactive_file ", "active_file ")))
    except (OSError, ValueError, IndexError):  # no limit, or none that can be read
        return None
    return max(0, limit - used + kept)
