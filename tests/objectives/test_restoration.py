"""Training the stage after the codec: what it is shown, what is cut, and what ``fit`` trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from objective_parts import CAPTIONS, Linear, Pixels, pipeline

from rollforge.backbones.base import DecodeStream
from rollforge.errors import UserError
from rollforge.finish import Enlarge
from rollforge.lightning.data import RolloutData
from rollforge.lightning.module import RolloutModule
from rollforge.objectives.multigrid import Multigrid, Stage, reduced, tiles
from rollforge.objectives.restoration import Restoration
from rollforge.pipeline import Pipeline
from rollforge.state import State
from rollforge.testing import check_objective
from rollforge.testing.training import Brightness

FRAMES, SIDE, FACTOR = 4, 4, 2  # of what the codec decodes


class Plain(DecodeStream):
    """Pixels from latents that are pixels."""

    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        return latents

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        return


class Lossless(Pixels):
    """A codec that changes nothing."""

    def stream(self) -> DecodeStream:
        return Plain()


class Doubled(Brightness):
    """Learns a brightness at twice the size."""

    def pixel_size(self, width: int, height: int) -> tuple[int, int]:
        return FACTOR * width, FACTOR * height

    def loss(self, decoded: torch.Tensor, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        larger = decoded.repeat_interleave(FACTOR, 3).repeat_interleave(FACTOR, 4)
        return super().loss(larger, frames)


def clips(count: int = 2, side: int = FACTOR * SIDE) -> Any:
    drawn = torch.Generator().manual_seed(3)
    video = torch.randint(256, (count, FRAMES, side, side, 3), generator=drawn, dtype=torch.uint8)
    return {"video": video, "caption": [CAPTIONS[n % 2] for n in range(count)]}


def owner(stage: Any = None) -> Pipeline:
    return pipeline(codec=Lossless(), finish=stage or Doubled())


def test_it_keeps_the_rules_of_objectives() -> None:
    check_objective(Restoration(noise=0.1))


def test_the_stage_sees_decoded_frames_of_reduced_ones_and_the_true_frames() -> None:
    batch = clips()
    made = Restoration().prepare(owner(), batch)
    means = batch["video"].float().unflatten(2, (SIDE, FACTOR)).unflatten(4, (SIDE, FACTOR)).mean((3, 5)) / 255
    assert (made["decoded"] - means.permute(0, 1, 4, 2, 3)).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal(made["video"], batch["video"])
    expected = 0.5 * made["decoded"].repeat_interleave(FACTOR, 3).repeat_interleave(FACTOR, 4)
    loss = (expected - batch["video"].permute(0, 1, 4, 2, 3) / 255).square().mean()
    torch.testing.assert_close(Restoration()(owner(), batch)["loss"].detach(), loss)


def test_noise_on_the_latents_has_a_level_for_each_clip() -> None:
    gray: Any = {"video": torch.full((64, FRAMES, 8, 8, 3), 128, dtype=torch.uint8), "caption": ["a"] * 64}
    torch.manual_seed(0)
    levels = Restoration(noise=0.2).prepare(owner(), gray)["decoded"].std((1, 2, 3, 4))
    assert 0.09 < levels.mean() < 0.11  # uniform from 0 to 0.2
    assert levels.max() < 0.22


@pytest.mark.parametrize(
    ("step", "length", "pieces", "tiles"), [(0, 2, 2, 4), (2, 4, 1, 4), (4, 2, 2, 1), (9, 4, 1, 1)]
)
def test_tiles_are_cut_at_the_same_places_of_both(step: int, length: int, pieces: int, tiles: int) -> None:
    schedule = Multigrid([Stage(4, [2, 4], 0.5), Stage(2, [2])], "linear")
    objective, parts = Restoration(), owner()
    full = objective.prepare(parts, clips())
    made = schedule.clips(objective, parts, full, step)
    count = 2 * pieces * tiles
    edge = SIDE // round(tiles**0.5)
    assert made["decoded"].shape == (count, length, 3, edge, edge)
    assert made["caption"] == [caption for caption in CAPTIONS for _ in range(pieces * tiles)]
    again = reduced(made["video"], edge, edge).permute(0, 1, 4, 2, 3) / 255
    torch.testing.assert_close(made["decoded"], again)
    assert sorted(made["video"].flatten().tolist()) == sorted(full["video"].flatten().tolist())  # all of it, once
    assert schedule.factor(2, count, cropped=True) == pieces * tiles


def test_fit_trains_the_stage_and_nothing_else_and_a_checkpoint_rolls_with_it() -> None:
    def module(stage: Any, **more: Any) -> RolloutModule:
        parts = owner(stage)
        return RolloutModule(
            parts.backbone, parts.conditioner, parts.codec, parts.policy, parts.sampler, finish=stage, **more
        )

    stage = Doubled()
    trained = module(
        stage, objective=Restoration(), multigrid=Multigrid([Stage(2, [2], 0.5)], "none"), ema=0.5,
        optimizer=lambda weights: torch.optim.SGD(weights, lr=0.1),
    )  # fmt: skip
    before = trained.backbone.state_dict()["slope"].clone()
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_steps=4,
    )  # fmt: skip
    data: Any = [{"video": clips()["video"][0], "caption": CAPTIONS[0]}] * 8
    trainer.fit(trained, RolloutData(train_dataset=data, batch_size=2))
    assert stage.gain.item() > 0.52
    assert torch.equal(trained.backbone.state_dict()["slope"], before)
    weights = trained.state_dict()
    assert {"finish.gain", "average.module.gain"} <= weights.keys()
    rolled = Doubled()
    module(rolled).load_checkpoint_weights(dict(weights), "last.ckpt")
    assert rolled.gain.item() == weights["average.module.gain"].item() != stage.gain.item()
    other = Doubled()
    without = {name: value for name, value in weights.items() if "finish" not in name and "average" not in name}
    module(other).load_checkpoint_weights(without, "last.ckpt")  # of a training of the backbone
    assert other.gain.item() == 0.5


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Restoration()(pipeline(codec=Lossless()), clips()), "trains model.finish, .* the config names none"),
        (lambda: Restoration()(owner(Enlarge(2)), clips()), r"The finish Enlarge defines no loss\(decoded, frames\)"),
        (lambda: Restoration()(owner(), clips(side=4)), "needs clips of 8x8 pixels, .* are 4x4; set their size"),
        (lambda: Restoration()(owner(), {"caption": ["a"]}), "needs pixel frames"),
        (
            lambda: RolloutModule(
                Linear(), pipeline().conditioner, Lossless(), pipeline().policy, pipeline().sampler,
                objective=Restoration(), ema=0.9,
            ),
            "Restoration trains model.finish, the stage after the codec, and there is none",
        ),
        (
            lambda: Multigrid([Stage(1, [2], 0.5)]).clips(Restoration(), owner(Enlarge(2)), clips(), 0),
            "stages at 0.5 of the size, and Enlarge is trained at one size",
        ),
        (
            lambda: tiles({"video": torch.zeros(1, 1, 6, 6, 3), "decoded": torch.zeros(1, 1, 3, 4, 4)}, 0.5),
            "for a finish with a whole factor; leave size out",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_says_why(make: Any, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        make()
