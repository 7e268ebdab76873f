"""The LightningDataModule: requests for ``predict`` and ``test``, clips for ``fit``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from rollforge.data.prompt_suite import PromptSuite
from rollforge.data.requests import Prompt, Request
from rollforge.data.video_requests import batches, make_requests
from rollforge.errors import UserError
from rollforge.lightning.distributed_samplers import RankSampler, ResumableSampler, SeededClips, ignore_signals
from rollforge.lightning.encoded import encoded
from rollforge.lightning.random_state import unchanged_random_state
from rollforge.ranges import Count, Positive, Range, UserPath, checked

log = logging.getLogger(__name__)


@checked
class RolloutData(LightningDataModule):
    """What to generate and what to train on.

    Args:
        prompts: one prompt, a list of prompts, a file (a line for each video) or a folder of such files. A member of
            the list may itself be a list of prompts over time: ``[{prompt: ...}, {at: 30s, prompt: ...}]``.
        seconds: length of each video, its opening included.
        opening: an image or a video that every video starts with, or a folder with one for each prompt, by name.
        opening_seconds: how much of an opening video is used, from its end. Default: the horizon minus one block.
        first_prompts: how many of the prompts are used, from the first on. Default: all.
        seed: of the noise; with a prompt's place in the list it decides the video.
        seeds: videos of each prompt: one from each of the seeds ``seed``, ``seed + 1``, ...
        rollout_batch_size: the most videos that are generated as one batch. Videos do not depend on it: a batch has
            prompts that start at the same times, and openings of the same length.
        videos: a folder of videos, of any tool, that ``test`` measures; nothing is generated then.
        train_dataset: what to train on.
        batch_size: clips in a training step.
        num_workers: processes that prepare training clips.
        repeat: how many times in a row training uses each batch.
        latent_cache: a folder for the latents of training clips, which are encoded once and reused; for a dataset whose
            clips are always the same, such as ``VideoClips``. Default: clips are encoded in every step.
    """

    config_section = "data"

    def __init__(
        self,
        prompts: list[Prompt] | str = (),  # type: ignore[assignment]
        seconds: Positive = 10.0,
        opening: UserPath | None = None,
        opening_seconds: Positive | None = None,
        seed: int = 0,
        seeds: Count = 1,
        first_prompts: Count | None = None,
        rollout_batch_size: Count = 1,
        videos: UserPath | None = None,
        train_dataset: Dataset | None = None,  # type: ignore[type-arg] # jsonargparse takes no subscripted base here
        batch_size: Count = 16,
        num_workers: Annotated[int, Range(0, 1024)] = 0,
        repeat: Count = 1,
        latent_cache: UserPath | None = None,
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # more processes than prompts
        self.prompts, self.seconds, self.seed, self.rollout_batch_size = prompts, seconds, seed, rollout_batch_size
        self.seeds, self.first_prompts = seeds, first_prompts
        self.opening, self.opening_seconds = opening, opening_seconds
        self.videos, self.train_dataset, self.batch_size, self.num_workers = (
            videos,
            train_dataset,
            batch_size,
            num_workers,
        )
        self.unreadable: dict[Path, str] = {}  # openings and prompt files, and what is wrong with each
        self.repeat, self.latent_cache = repeat, latent_cache
        self._openings_read: set[Path] = set()

    @classmethod
    def load_from_checkpoint(cls, *arguments: Any, **options: Any) -> Self:
        """Not supported, since a checkpoint keeps nothing of the data, and builds nothing. Raises ``UserError``."""
        raise UserError(f"A checkpoint keeps no data; make {cls.__name__}(...) with its arguments.")

    def requests(self, fps: float, pictures: int = 1) -> list[Request]:
        """One request for each prompt and seed, at ``fps`` latent frames per second.

        There is none for a prompt file that cannot be read. Each latent frame but the first decodes to ``pictures``
        pixel frames, the first to one.
        """
        return make_requests(
            self.prompts, self.seconds, fps, pictures, seed=self.seed, seeds=self.seeds,
            first_prompts=self.first_prompts, opening=self.opening, opening_seconds=self.opening_seconds,
            leave_out=self._leave_out,
        )  # fmt: skip

    @property
    def suite(self) -> PromptSuite | None:
        """What the prompts are known by; None without prompts. Raises ``UserError`` for a file that cannot be read."""
        return PromptSuite.of(self.prompts, self.first_prompts) if self.prompts else None

    def _leave_out(self, file: Path, why: str) -> None:
        """Warns once that a prompt file is left out."""
        if file not in self.unreadable:
            self.unreadable[file] = why
            log.warning("%s Its prompts are left out.", why)

    def readable(self, requests: list[Request], read: Callable[[Request, Path], object]) -> list[Request]:
        """Requests without those whose opening ``read`` cannot read; each such file is named once in a warning.

        Raises:
            UserError: where not one of several is left; for a single opening, what is wrong with it.
        """
        for request in requests:
            if request.opening and request.opening not in self._openings_read:
                self._openings_read.add(request.opening)
                try:
                    read(request, request.opening)
                except UserError as error:
                    self.unreadable[request.opening] = str(error)
                    if any(each.opening != request.opening for each in requests):
                        log.warning("%s The video that it opens is left out.", error)
        left = [request for request in requests if request.opening not in self.unreadable]
        if requests and not left:
            first, *more = dict.fromkeys(self.unreadable[each.opening] for each in requests if each.opening)
            others = len(more)
            raise UserError(f"{first} Nor can the other {others} openings be read." if others else first)
        return left

    def predict_dataloader(self) -> Any:
        module: Any = self.trainer.lightning_module if self.trainer else None
        requests = module.requests(self) if module else []
        together = module.pipeline.together if module else 1  # processes of one video, whose ranks follow each other
        place = {name: number // together for name, number in self._place().items()}
        mine = [requests[n] for n in RankSampler(len(requests), **place)]
        groups = batches(mine, self.rollout_batch_size)
        own: Any = groups  # a list is dataset enough
        return DataLoader(own, batch_size=1, sampler=RankSampler(len(groups)), collate_fn=_only)

    def test_dataloader(self) -> Any:
        return self.predict_dataloader()

    @property
    def training_clips(self) -> Any:
        """What to train on. Raises ``UserError`` where there is nothing."""
        if self.train_dataset is None:
            raise UserError("fit needs data.train_dataset, what to train on, and the config names none.")
        return self.train_dataset

    def train_dataloader(self) -> Any:
        place = self._place()
        clips = self._cached(self.training_clips, **place)
        count = len(clips)
        processes = place.get("num_replicas", 1)
        if count < processes:
            raise UserError(
                f"data.train_dataset holds {count} clips for {processes} processes; each needs at least one."
            )
        size = min(self.batch_size, count // processes)
        seed = self.seed % 2**64
        own = torch.Generator()  # so that the loader draws nothing from the random numbers of the training
        return DataLoader(
            SeededClips(clips, seed), batch_size=size, drop_last=True, generator=own,
            sampler=ResumableSampler(count, size, self._position, seed, repeat=self.repeat, **place),
            num_workers=self.num_workers, worker_init_fn=ignore_signals,
        )  # fmt: skip

    def _cached(self, clips: Any, num_replicas: int = 1, rank: int = 0, **_: Any) -> Any:
        """The clips as latents, where ``latent_cache`` is set. Raises ``UserError`` for a damaged one."""
        trainer: Any = self.trainer
        if self.latent_cache is None or trainer is None:
            return clips
        module = trainer.lightning_module
        if module.objective is not None and module.objective.trains != "backbone":
            raise UserError(
                "data.latent_cache keeps latents alone, and this objective trains the "
                f"{module.objective.trains}, which needs pixel frames; leave latent_cache out."
            )
        with unchanged_random_state():
            found = encoded(clips, module.pipeline, Path(self.latent_cache), rank, num_replicas)
        trainer.strategy.barrier()
        return found.checked()

    def _place(self) -> dict[str, int]:
        """``num_replicas`` and ``rank`` among the processes of the run; empty for a single one."""
        return (self.trainer.distributed_sampler_kwargs if self.trainer else None) or {}

    def _position(self) -> tuple[int, int]:
        """The epoch of the training, and the batches of it that are done."""
        if self.trainer is None:
            return 0, 0
        return self.trainer.current_epoch, self.trainer.fit_loop.epoch_loop.batch_progress.current.ready


def _only(batch: list[list[Request]]) -> list[Request]:
    """The one batch in a batch of batches."""
    return batch[0]
