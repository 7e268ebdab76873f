"""The schedule of clip lengths and sizes, and the world at any size."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import numpy as np
import pytest
import torch
from objective_parts import CAPTIONS, FRAMES, Linear, clips, pipeline

from rollforge.backbones.pocket.codec import PocketCodec
from rollforge.data.clips import WorldClips
from rollforge.data.world import all_scenes, render
from rollforge.errors import UserError
from rollforge.lightning.data import RolloutData
from rollforge.lightning.module import RolloutModule
from rollforge.objectives.flow import DiffusionForcing
from rollforge.objectives.multigrid import Multigrid, Shape, Stage
from rollforge.objectives.reconstruction import Reconstruction

LENGTHS = Multigrid([Stage(6, [3, 6, 9])])
SIZES = Multigrid([Stage(2, [2], 0.5), Stage(2, [2, 4], 1.0)])
SCENE = all_scenes()[300]


def test_lengths_and_sizes_follow_the_stages_and_end_in_full_clips() -> None:
    assert [LENGTHS.at(step) for step in range(8)] == [Shape(n) for n in (3, 3, 6, 6, 9, 9)] + [Shape(), Shape()]
    assert [SIZES.at(step) for step in range(5)] == [Shape(2, 0.5)] * 2 + [Shape(2), Shape(4), Shape()]


@pytest.mark.parametrize(("step", "length", "pieces"), [(0, 3, 3), (2, 6, 1), (5, 9, 1), (6, 9, 1)])
def test_short_clips_are_pieces_of_full_ones(step: int, length: int, pieces: int) -> None:
    batch, owner = clips(), pipeline()
    found = LENGTHS.clips(DiffusionForcing(), owner, batch, step)
    expected = batch["video"][:, : pieces * length].unflatten(1, (pieces, length)).flatten(0, 1)
    assert torch.equal(found["video"], expected)
    assert found["caption"] == [caption for caption in CAPTIONS for _ in range(pieces)]
    assert LENGTHS.factor(2, len(found["caption"])) == pieces
    latents: Any = {"latents": batch["video"].permute(0, 1, 4, 2, 3).float(), "caption": batch["caption"]}
    assert LENGTHS.clips(DiffusionForcing(), owner, latents, step)["latents"].shape[:2] == (2 * pieces, length)


def test_small_clips_are_more_in_a_step_of_the_same_pixels() -> None:
    owner = pipeline(codec=PocketCodec(width=16, weights="random"))
    batch: Any = {"video": torch.randint(256, (8, 4, 16, 16, 3), dtype=torch.uint8), "caption": ["a"] * 8}
    pixels = []
    for step in range(5):
        found = SIZES.clips(Reconstruction(), owner, batch, step)
        pixels.append(found["video"].numel())
        assert len(found["caption"]) == len(found["video"])
    assert len(set(pixels)) == 1
    small = SIZES.clips(Reconstruction(), owner, batch, 0)["video"]
    means = batch["video"][:, :2].float().unflatten(2, (8, 2)).unflatten(4, (8, 2)).mean((3, 5))
    assert (small[::2].float() - means).abs().max() <= 0.5
    assert SIZES.factor(8, 16) == 8  # a step of full clips has two of them


def test_the_learning_rate_follows_the_number_of_clips_and_leaves_the_schedule_alone() -> None:
    from lightning.pytorch import Callback, Trainer

    rates: list[float] = []

    class Slow(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            loss = closure()
            rates.append(self.param_groups[0]["lr"])
            return loss

    class After(Callback):
        def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
            assert trainer.optimizers[0].param_groups[0]["lr"] == 0.5

    owner = pipeline(Linear())
    module = RolloutModule(
        owner.backbone, owner.conditioner, owner.codec, owner.policy, owner.sampler, objective=DiffusionForcing(),
        multigrid=Multigrid([Stage(6, [3, 6, 9])], "sqrt"), optimizer=lambda weights: Slow(weights, lr=0.5),
    )  # fmt: skip
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_steps=7, callbacks=[After()],
    )  # fmt: skip
    video = clips()["video"]
    data: Any = [{"video": video[n % 2], "caption": CAPTIONS[0]} for n in range(14)]
    trainer.fit(module, RolloutData(train_dataset=data, batch_size=2))
    assert rates == pytest.approx([0.5 * 3**0.5] * 2 + [0.5] * 5)
    assert [len(noisy) for noisy, *_ in owner.backbone.shown] == [6, 6, 2, 2, 2, 2, 2]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (SIZES, "stages at 0.5 of the size, and Linear is trained at one size; leave size out"),
        (Multigrid([Stage(1, [4])]), "clips of 4 latent frames, which are not whole blocks of 3"),
        (Multigrid([Stage(1, [12])]), "clips of 12 latent frames, and those of data.train_dataset are shorter"),
    ],
)
def test_schedules_that_do_not_fit_the_model_are_refused(schedule: Multigrid, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        schedule.clips(DiffusionForcing(), pipeline(), clips(), 0)


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ([], "needs stages whose sizes rise"),
        ([Stage(1, [3]), Stage(1, [3], 0.5)], r"sizes rise, not \[1.0, 0.5\]"),
        ([Stage(2, [6, 3])], r"Stage 0 of Multigrid has lengths \[6, 3\] in 2 steps"),
        ([Stage(1, [3, 6])], "a step or more for each"),
    ],
)
def test_schedules_in_disorder_are_refused(stages: list[Stage], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        Multigrid(stages)


def test_the_world_has_the_same_pixels_at_64() -> None:
    drawn = sha256()
    for n, scene in enumerate(all_scenes()[::97]):
        drawn.update(render(scene, n, 5, size=64)[0].tobytes())
    assert drawn.hexdigest() == "978adf1fa04354fdc0b46e52a8ca77bfae2c25631ab28324d880652b7efdd819"  # of version 0.2


@pytest.mark.parametrize("size", [16, 128, 192])
def test_the_world_shows_the_same_scene_at_any_size(size: int) -> None:
    plain, truth = render(SCENE, 3, 2)
    video, scaled = render(SCENE, 3, 2, size=size)
    assert video.shape == (2, size, size, 3)
    np.testing.assert_allclose(scaled.centres, truth.centres * size / 64, rtol=1e-6)
    large, small = (video, plain) if size > 64 else (plain, video)
    each = large.shape[1] // small.shape[1]
    means = large.astype(float).reshape(2, small.shape[1], each, small.shape[2], each, 3).mean((2, 4))
    apart = np.abs(means - small)
    assert apart.mean() < 1.5
    assert np.quantile(apart, 0.97) < 12  # edges are as sharp as the pixels
    assert WorldClips(FRAMES, 1, size=size)[0]["video"].shape == (FRAMES, size, size, 3)
