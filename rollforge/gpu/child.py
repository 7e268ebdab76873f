"""One stage in a process of its own: ``python -m rollforge.gpu.child STAGE DEVICE FULL FILE``."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import torch

from rollforge.gpu.models import Setup
from rollforge.gpu.report import Recorder
from rollforge.gpu.stages import STAGES


def main(name: str, device: str, full: str, file: str) -> None:
    """Runs a stage; its rows are appended to ``file``."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    (stage,) = (stage for stage in STAGES if stage.name == name)
    function = getattr(import_module(f"rollforge.gpu.{stage.module}"), name)
    with torch.no_grad():
        function(Setup(device, full == "1"), Recorder(name, Path(file)))


if __name__ == "__main__":
    main(*sys.argv[1:])
