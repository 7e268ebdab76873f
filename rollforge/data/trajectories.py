"""Stored solutions of a teacher, as clips to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from rollforge.data.clip_store import ClipStore
from rollforge.errors import UserError
from rollforge.files.reading import MANIFEST, read_json
from rollforge.ranges import Checked, UserPath

ABOUT, KIND = "trajectories.json", "trajectory"


def trajectory_store(folder: Path) -> ClipStore:
    """The files of a folder of trajectories."""
    remedy = "remove it and run `rollforge trajectories` again, which makes it again"
    return ClipStore(folder, KIND, remedy, ("trajectory", "timesteps"), ("caption",))


class Trajectories(Checked, Dataset[dict[str, Any]]):
    """Trajectories that ``rollforge trajectories`` has made, for ``OdeRegression``.

    A clip is a dict of ``trajectory`` ``[S, F, C, h, w]`` (the states at ``timesteps``, the end of the solution and,
    where the teacher was given one, the true clip), ``timesteps`` and ``caption``.

    Args:
        folder: that the command has written.

    Raises:
        UserError: where there are none, where the command was interrupted, and for a damaged file.
    """

    def __init__(self, folder: UserPath) -> None:
        root = Path(folder)
        if not (root / ABOUT).is_file():
            raise UserError(f"Trajectories: {folder} holds no {ABOUT}; make it with `rollforge trajectories`.")
        about = read_json(root / ABOUT, MANIFEST, "file")
        self.store = trajectory_store(root)
        self.names = self.store.names()
        clips = about.get("clips") if isinstance(about, dict) else None
        if len(self.names) != clips:
            raise UserError(
                f"Trajectories: {folder} holds {len(self.names)} of {clips} trajectories; run the same `rollforge "
                "trajectories` again, which continues."
            )
        self.store.check(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        words, tensors = self.store.read(self.names[index])
        return {**tensors, "caption": words["caption"]}
