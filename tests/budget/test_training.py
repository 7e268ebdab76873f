"""The budget of ``fit``: against the storages of a real training step, and what happens where it does not fit."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from alive import Alive
from lightning.pytorch import Trainer
from small import one_thread  # noqa: F401 - a fixture is used by being here
from torch import Tensor, nn
from torch.optim import NAdam

from rollforge.backbones.pocket.codec import PocketCodec
from rollforge.backbones.pocket.network import Pocket
from rollforge.backbones.pocket.text import PocketText
from rollforge.errors import UserError
from rollforge.finish import Finish, FinishStream
from rollforge.lightning.data import RolloutData
from rollforge.lightning.module import RolloutModule
from rollforge.objectives import DMD, SelfForcing
from rollforge.objectives.base import Clips, Objective
from rollforge.objectives.flow import DiffusionForcing, TeacherForcing
from rollforge.objectives.reconstruction import Reconstruction
from rollforge.objectives.resampling import ResamplingForcing
from rollforge.objectives.restoration import Restoration
from rollforge.policies import Window
from rollforge.samplers import Euler, FewStep, Sampler
from rollforge.training_budget import TrainingCheck

CLIPS = [{"video": torch.zeros(12, 64, 64, 3, dtype=torch.uint8), "caption": "a red ball over snow at day"}] * 4


class Sharper(Finish):
    """Some convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 3, 3, padding=1))

    def stream(self) -> FinishStream:
        raise NotImplementedError

    def loss(self, decoded: Tensor, frames: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.layers(decoded.flatten(0, 1)) - frames.flatten(0, 1)).square().mean()}


def network() -> Pocket:
    return Pocket(dim=64, layers=3, heads=2, ffn_dim=256)


def module(objective: Objective, sampler: Sampler | None = None, **more: Any) -> RolloutModule:
    parts = network(), PocketText(), PocketCodec(width=16), Window(), sampler or Euler()
    made = RolloutModule(*parts, objective=objective, **more)
    made.setup("fit")
    return made


def trainer(precision: str = "32-true", device: str = "cpu", **more: Any) -> Any:
    known = {
        "strategy": SimpleNamespace(root_device=torch.device(device)), "precision": precision, "world_size": 1,
        "num_devices": 1, "accumulate_grad_batches": 1,
    }  # fmt: skip
    return SimpleNamespace(**known | more)


def checked(made: RolloutModule, batch: int = 2, **more: Any) -> TrainingCheck:
    return TrainingCheck.of(made.pipeline, made.recipe, trainer(**more), CLIPS, batch, [])


def line(check: TrainingCheck, name: str) -> Any:
    (found,) = [each for each in check.budget.lines if each.name == name]
    return found


def peak_of_fit(made: RolloutModule, precision: str, accumulate: int, steps: int = 2) -> int:
    """Bytes in addition to the module's own tensors, at the busiest moment of a real training."""
    loop = Trainer(
        accelerator="cpu", precision=precision, max_steps=steps, accumulate_grad_batches=accumulate,  # type: ignore[arg-type]
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    data = RolloutData(train_dataset=CLIPS, batch_size=2)  # type: ignore[arg-type]
    with Alive([made], "cpu") as alive:
        loop.fit(made, data)
    return int(alive.peak)


@pytest.mark.parametrize("checkpoint", [True, pytest.param(False, marks=pytest.mark.matrix)])
def test_the_peak_of_two_networks_is_within_ten_percent(checkpoint: bool) -> None:
    objective = SelfForcing(DMD(), network(), network(), ratio=1, frames=6, checkpoint=checkpoint)
    made = module(objective, FewStep((1000,)))
    check = checked(made)
    names = "gradients", "state of the optimizer", "state of the critic's optimizer", "activations of a training step"
    counted = sum(line(check, name).size for name in names)
    assert counted == pytest.approx(peak_of_fit(made, "32-true", 1, steps=4), rel=0.1)


@pytest.mark.parametrize(
    ("objective", "precision", "accumulate"),
    [
        (DiffusionForcing(), "32-true", 1),
        pytest.param(DiffusionForcing(), "64-true", 2, marks=pytest.mark.matrix),
        pytest.param(TeacherForcing(), "bf16-mixed", 1, marks=pytest.mark.matrix),
        (TeacherForcing(), "bf16-true", 2),
        (Reconstruction(), "32-true", 1),
        (Restoration(), "32-true", 1),
        pytest.param(ResamplingForcing(), "bf16-mixed", 1, marks=pytest.mark.matrix),
    ],
    ids=lambda value: value if isinstance(value, str | int) else type(value).__name__,
)
def test_the_peak_of_a_training_is_within_ten_percent(objective: Objective, precision: str, accumulate: int) -> None:
    made = module(objective, finish=Sharper() if isinstance(objective, Restoration) else None)
    made.backbone.to({"64-true": torch.float64, "bf16-true": torch.bfloat16}.get(precision))
    check = checked(made, precision=precision, accumulate_grad_batches=accumulate)
    own = sum(each.size for each in check.budget.lines if each.name.startswith("weights of"))
    assert check.budget.needed("cpu") - own == pytest.approx(peak_of_fit(made, precision, accumulate), rel=0.1)


@pytest.mark.parametrize(
    "optimizer",
    [torch.optim.AdamW, partial(torch.optim.SGD, lr=0.1), partial(torch.optim.SGD, lr=0.1, momentum=0.9), NAdam],
)
def test_the_state_of_the_optimizer_is_its_own(optimizer: Any) -> None:
    made = module(DiffusionForcing(), optimizer=optimizer)
    estimated = line(checked(made), "state of the optimizer").size
    real = optimizer(made.backbone.parameters())
    for weight in made.backbone.parameters():
        weight.grad = torch.ones_like(weight)
    real.step()
    kept = {each for state in real.state.values() for each in state.values() if isinstance(each, Tensor)}
    assert estimated == sum(each.nbytes for each in kept)
    assert all(weight.device.type == "cpu" for weight in made.backbone.parameters())


def test_an_optimizer_that_needs_values_is_counted_by_one_small_parameter() -> None:
    estimated = line(
        checked(module(DiffusionForcing(), optimizer=torch.optim.Adafactor)), "state of the optimizer"
    ).size
    assert 0 < estimated < sum(weight.nbytes for weight in module(DiffusionForcing()).backbone.parameters()) / 10


class ByValue(Objective):
    """Looks at a value, which a shape does not have."""

    def __call__(self, module: Any, clips: Clips) -> dict[str, Tensor]:
        loss = module.encode(clips["video"]).sum()
        return {"loss": loss * (2 if loss > 0 else 1)}


def test_what_cannot_be_counted_is_reported() -> None:
    before = torch.get_rng_state()
    check = checked(module(ByValue(), optimizer=torch.optim.LBFGS))
    assert line(check, "activations of a training step").how == "ByValue: it cannot be counted without values"
    assert line(check, "state of the optimizer").how == "it cannot be counted without a step"
    assert line(check, "gradients").size > 0
    made = module(DiffusionForcing())
    torch.set_rng_state(before)
    checked(made)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_sharded_network_and_several_processes() -> None:
    made = module(DiffusionForcing(), ema=0.9)
    alone, several = checked(made), checked(made, world_size=4)
    assert line(several, "gradients on their way to other processes").size == line(alone, "gradients").size
    strategy = type("ModelParallelStrategy", (), {"root_device": torch.device("cpu")})()
    sharded = checked(made, world_size=4, strategy=strategy)
    for name in ("weights of the network", "gradients", "state of the optimizer", "averaged weights"):
        assert line(sharded, name).size == line(alone, name).size // 4, name


def test_the_advice_is_a_batch_that_fits_and_else_half_precision() -> None:
    check = checked(module(DiffusionForcing(), ema=0.9), batch=4)
    one = replace(check.training, work=replace(check.training.work, batch=1)).budget({}).needed("cpu")
    assert replace(check, free={"cpu": one}).advice() == "It would fit with data.batch_size: 1."
    assert replace(check, free={"cpu": one - 1}).advice().endswith(" and trainer.precision: bf16-true.")
    assert replace(check, free={"cpu": 1}).advice().startswith("No batch size makes it fit")
    with pytest.raises(UserError, match=r"(?s)does not fit into memory.*activations.*It would fit with"):
        replace(check, free={"cpu": one}).check()
