"""Prompts to train on without videos, for objectives that roll their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from rollforge.data.prompt_files import read_file
from rollforge.errors import UserError
from rollforge.ranges import Checked, UserPath


class Prompts(Checked, Dataset[dict[str, Any]]):
    """A prompt for each clip, and no video: for ``SelfForcing`` and ``LongTuning`` with ``DMD`` or ``SiD``.

    Args:
        file: a prompt file, as ``data.prompts`` takes them, with one prompt for each video.

    Raises:
        UserError: for a file that cannot be read, and for prompts that change over time.
    """

    def __init__(self, file: UserPath) -> None:
        self.prompts: list[tuple[str, str]] = []
        for entry in read_file(Path(file)):
            if not isinstance(entry.prompt, str):
                raise UserError(f"Prompts: {entry.where} changes over time; write one text for each video.")
            self.prompts.append((entry.prompt, entry.where))

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        prompt, where = self.prompts[index]
        return {"caption": prompt, "source": where}
