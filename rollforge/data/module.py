"""The LightningDataModule: requests for ``predict`` and ``test``, clips for ``fit``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from rollforge.data.requests import Request, read_prompts
from rollforge.errors import UserError


class RolloutData(LightningDataModule):
    """What to roll and what to train on.

    Args:
        prompts: a list of prompts, one prompt, a text file (one a line) or a folder of text files.
        seconds: length of each video.
        seed: of the noise; with a prompt's place in the list it decides the video.
        rollout_batch: videos that ``test`` rolls together; the videos do not depend on it.
        clips: what to train on.
        batch_size: clips in a training step.
        workers: processes that prepare training clips.
    """

    def __init__(
        self,
        prompts: list[str] | str = (),  # type: ignore[assignment]
        seconds: float = 10.0,
        seed: int = 0,
        rollout_batch: int = 1,
        clips: Dataset | None = None,  # type: ignore[type-arg] # jsonargparse takes no subscripted base here
        batch_size: int = 16,
        workers: int = 0,
    ) -> None:
        super().__init__()
        if not seconds > 0 or not math.isfinite(seconds):
            raise UserError(f"data.seconds must be above 0, not {seconds}.")
        for name, value, least in (
            ("rollout_batch", rollout_batch, 1),
            ("batch_size", batch_size, 1),
            ("workers", workers, 0),
        ):
            if value < least:
                raise UserError(f"data.{name} must be {least} or more, not {value}.")
        self.prompts, self.seconds, self.seed, self.rollout_batch = prompts, seconds, seed, rollout_batch
        self.clips, self.batch_size, self.workers = clips, batch_size, workers

    def requests(self, fps: float) -> list[Request]:
        """One request for each prompt, at ``fps`` latent frames per second."""
        if not self.prompts:
            raise UserError("There is nothing to roll: give data.prompts one prompt or more.")
        frames = max(1, round(self.seconds * fps))
        return [Request(text, n, self.seed, frames) for n, text in enumerate(read_prompts(self.prompts))]

    def predict_dataloader(self) -> Any:
        module: Any = self.trainer.lightning_module if self.trainer else None
        requests = self.requests(module.backbone.spec.fps) if module else []
        return DataLoader(requests, batch_size=self.rollout_batch, collate_fn=list)  # type: ignore[arg-type]

    def test_dataloader(self) -> Any:
        return self.predict_dataloader()

    def train_dataloader(self) -> Any:
        if self.clips is None:
            raise UserError("fit needs data.clips, what to train on, and the config names none.")
        count = len(self.clips)  # type: ignore[arg-type]
        size = min(self.batch_size, count)
        order = _Onwards(count, size, self._batches_done, self.seed)
        own = torch.Generator()  # so that the loader draws nothing from the random numbers of the training
        return DataLoader(
            self.clips, batch_size=size, sampler=order, num_workers=self.workers, drop_last=True, generator=own
        )

    def _batches_done(self) -> int:
        return self.trainer.global_step * self.trainer.accumulate_grad_batches if self.trainer else 0


class _Onwards(Sampler[int]):
    """A seeded shuffle for each epoch, entered where the batches ``done`` end: a resumed run sees what it had not."""

    def __init__(self, clips: int, batch: int, done: Callable[[], int], seed: int) -> None:
        self.clips, self.batch, self.done, self.seed = clips, batch, done, seed

    def __len__(self) -> int:
        return self.clips

    def __iter__(self) -> Iterator[int]:
        epoch, skip = divmod(self.done(), self.clips // self.batch)
        order = np.random.default_rng((self.seed, epoch)).permutation(self.clips)
        return iter(order[skip * self.batch :].tolist())
