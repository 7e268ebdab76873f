"""``trainer.predict``, ``test`` and ``fit`` from plain Python, and what a user's own callback receives."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from small import one_thread  # noqa: F401 - a fixture is used by being here
from torch import Tensor

from rollforge.backbones.pocket.codec import PocketCodec
from rollforge.backbones.pocket.network import Pocket
from rollforge.backbones.pocket.text import PocketText
from rollforge.data import Prompts
from rollforge.data.clips import WorldClips
from rollforge.errors import UserError
from rollforge.lightning.callbacks import isolate
from rollforge.lightning.data import RolloutData
from rollforge.lightning.module import RolloutModule
from rollforge.lightning.training_report import TrainingReport
from rollforge.metrics.flicker import Flicker
from rollforge.objectives import Clips, Objective
from rollforge.objectives.consistency import ConsistencyDistillation
from rollforge.objectives.dmd import DMD
from rollforge.objectives.flow import DiffusionForcing
from rollforge.objectives.gan import GAN
from rollforge.objectives.resampling import ResamplingForcing
from rollforge.objectives.self_forcing import SelfForcing
from rollforge.pipeline import Pipeline, VideoBlock
from rollforge.policies import Window
from rollforge.samplers import Euler, FewStep
from rollforge.testing import check_dataset
from rollforge.training_budget import TrainingCheck

PROMPTS: Any = ["a red ball over snow at day", "a blue box over sand at night"]
CLIPS: Any = [{"video": torch.zeros(12, 64, 64, 3, dtype=torch.uint8), "caption": PROMPTS[0]}] * 4


@pytest.fixture(autouse=True)
def no_graphs() -> None:
    """Forgets what earlier tests compiled, since torch counts the graphs of a function and not those of a network."""
    torch._dynamo.reset()


class Watcher(Callback):
    """Keeps what it receives."""

    def __init__(self) -> None:
        self.blocks: list[VideoBlock] = []

    def on_block(self, trainer: Trainer, module: RolloutModule, block: VideoBlock) -> None:
        assert isinstance(module, RolloutModule)
        self.blocks.append(block)


class Gradients(Callback):
    """Keeps the gradients of the student after the last backward pass."""

    def on_after_backward(self, trainer: Trainer, pl_module: Any) -> None:
        self.seen = [torch.zeros_like(w) if w.grad is None else w.grad.clone() for w in pl_module.backbone.parameters()]


class Failing(Callback):
    def on_block(self, trainer: Trainer, module: RolloutModule, block: VideoBlock) -> None:
        raise ZeroDivisionError


def network() -> Pocket:
    torch.manual_seed(0)
    return Pocket(dim=32, layers=1, heads=2, ffn_dim=64, weights="random")


def parts() -> dict[str, Any]:
    return {
        "backbone": network(), "conditioner": PocketText(), "codec": PocketCodec(width=16, weights="random"),
        "policy": Window(), "sampler": Euler(steps=1), "metrics": [Flicker()],
    }  # fmt: skip


def module(**more: Any) -> RolloutModule:
    return RolloutModule(**parts() | {"metrics": None} | more)


def trainer(*callbacks: Callback, **more: Any) -> Trainer:
    return Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks), **more,
    )  # fmt: skip


def test_a_network_takes_one_step_from_the_mean_of_the_gradients_that_it_gathers() -> None:
    def trained(steps: int) -> list[Tensor]:
        objective = SelfForcing(DMD(), network(), network(), ratio=1, frames=6, accumulate=2)
        own = module(
            objective=objective, sampler=FewStep((1000,)), optimizer=lambda weights: torch.optim.SGD(weights, lr=1.0)
        )
        watcher = Gradients()
        torch.manual_seed(1)
        trainer(watcher, max_steps=steps).fit(own, RolloutData(train_dataset=CLIPS, batch_size=2))
        return [*(weight.detach() for weight in own.backbone.parameters()), *watcher.seen]

    before = [*network().parameters()]
    count = len(before)
    first, second = trained(1), trained(2)
    assert all(torch.equal(one, other) for one, other in zip(first[:count], before, strict=True))
    for old, new, total in zip(before, second[:count], second[count:], strict=True):
        torch.testing.assert_close(new, old - total)
    assert any(not torch.equal(one, 2 * other) for one, other in zip(second[count:], first[count:], strict=True))


def test_self_forcing_trains_on_a_file_of_prompts_and_other_losses_refuse_it(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(PROMPTS))
    check_dataset(Prompts(str(file)))
    objective = SelfForcing(DMD(), network(), network(), ratio=1, frames=6)
    own, clips = (
        module(objective=objective, sampler=FewStep((1000,))),
        RolloutData(train_dataset=Prompts(str(file)), batch_size=2),
    )
    fitting = trainer(max_steps=1)
    check = TrainingCheck.of(own.pipeline, own.recipe, fitting, clips.train_dataset, 2, [])
    assert check.training.step is not None
    fitting.fit(own, clips)
    assert fitting.callback_metrics["loss"].isfinite()
    with pytest.raises(UserError, match=r"DiffusionForcing trains on videos, .* gives prompts alone"):
        trainer(max_steps=1).fit(module(objective=DiffusionForcing()), clips)


def test_a_loss_that_is_not_finite_names_the_step_the_clips_and_what_was_saved(tmp_path: Path) -> None:
    class Failing(DiffusionForcing):
        def __call__(self, pipeline: Pipeline, clips: Clips) -> dict[str, Tensor]:
            losses = super().__call__(pipeline, clips)
            return {"loss": losses["loss"] * (torch.nan if self.step == 1 else 1)}

    clips: Any = [clip | {"source": f"{n}.mp4 from frame 0"} for n, clip in enumerate(CLIPS)]
    report = TrainingReport(tmp_path)
    with pytest.raises(UserError, match=r"loss is nan at step 2, on \d.mp4 from frame 0, \d.mp4 .*Nothing was saved"):
        trainer(report, max_steps=3).fit(module(objective=Failing()), RolloutData(train_dataset=clips, batch_size=2))
    report.saved = 1
    assert report._saved().startswith("The checkpoint and the weights of step 1 stay in")


def data(seconds: float = 1) -> RolloutData:
    return RolloutData(prompts=PROMPTS, seconds=seconds, rollout_batch_size=2)


def two_blocks() -> RolloutData:
    """A network compiles a graph for each count of frames that it attends to, which takes a second."""
    return data(0.6)


def one_level(frames: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether no pixel differs by more than one of 255: a compiled pass computes its products apart."""
    return frames.shape == expected.shape and bool((frames.int() - expected.int()).abs().max() <= 1)


def test_predict_returns_the_frames_and_hands_every_block_to_a_callback() -> None:
    watcher, own = Watcher(), module()
    (frames,) = trainer(watcher).predict(own, data())
    assert torch.equal(frames, torch.cat([block.frames for block in watcher.blocks], dim=1))
    assert [each.prompt for each in watcher.blocks[0].requests] == PROMPTS
    clips = own.pipeline.generate(PROMPTS, seconds=1, batch_size=2)
    assert torch.equal(frames, torch.stack([clip.frames for clip in clips]))


def test_test_logs_the_mean_of_each_curve_and_hands_blocks_to_a_callback() -> None:
    watcher = Watcher()
    (logged,) = trainer(watcher).test(module(metrics=[Flicker()]), data(), verbose=False)
    measured = Flicker()
    measured.start(PROMPTS[0], 8.0)
    assert logged.keys() == {f"test/{name}" for name in measured.update(watcher.blocks[0].frames[0], 0)}
    assert watcher.blocks


def test_fit_trains_the_network_that_the_pipeline_rolls() -> None:
    own = module(objective=DiffusionForcing(), ema=0.5)
    names, before = list(own.state_dict()), own.pipeline.backbone.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    trainer(max_steps=2).fit(own, RolloutData(train_dataset=CLIPS, batch_size=2))
    assert own.pipeline.backbone is own.backbone
    assert any(not torch.equal(value, before[name]) for name, value in own.pipeline.backbone.state_dict().items())
    assert list(own.state_dict()) == names
    assert {name.split(".")[0] for name in names} == {"backbone", "codec", "average"}


OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "last step": lambda: ResamplingForcing(history_from="last_step", drop_text=0.5),
    "consistency": lambda: ConsistencyDistillation(network()),
    "self forcing": lambda: SelfForcing(DMD(), network(), network(), ratio=1, frames=6, critic_scheduler=halving),
    "gathering": lambda: SelfForcing(
        DMD(), network(), network(), ratio=1, frames=6, accumulate=2, critic_accumulate=2, critic_precision="bf16"
    ),
    "gan": lambda: SelfForcing(GAN(taps=(0.0,)), network(), ratio=1, warm_up=1, frames=6, history="commit"),
}


def halving(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_a_training_that_is_resumed_between_two_steps_on_one_clip_has_the_same_weights(
    kind: str, tmp_path: Path
) -> None:
    def training(steps: int, ckpt_path: Path | None = None) -> tuple[Trainer, RolloutModule]:
        torch.manual_seed(3)
        sampler = FewStep((1000, 500)) if kind in ("self forcing", "gathering", "gan") else Euler(steps=1)
        own = module(objective=OBJECTIVES[kind](), sampler=sampler, ema=0.5)
        fitting = trainer(max_steps=steps)
        torch.manual_seed(1)
        clips = RolloutData(train_dataset=WorldClips(frames=6, clips=4), batch_size=2, repeat=2)
        fitting.fit(own, clips, ckpt_path=ckpt_path)
        return fitting, own

    _, whole = training(4)
    cut, _ = training(3)
    cut.save_checkpoint(tmp_path / "cut.ckpt")
    _, resumed = training(4, tmp_path / "cut.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_the_running_average_is_the_target_of_consistency_distillation() -> None:
    with pytest.raises(UserError, match=r"needs the running average of the weights as its target; set model.ema"):
        trainer(max_steps=1).fit(
            module(objective=ConsistencyDistillation(network())), RolloutData(train_dataset=CLIPS, batch_size=2)
        )
    other = Pocket(dim=32, layers=1, heads=2, ffn_dim=64, channels=4, weights="random")
    with pytest.raises(UserError, match=r"the teacher Pocket has latents of 4x\d+x\d+ and the model \d+x"):
        trainer(max_steps=1).fit(
            module(objective=ConsistencyDistillation(other), ema=0.9), RolloutData(train_dataset=CLIPS, batch_size=2)
        )


def test_a_failing_callback_does_not_stop_a_rollout(caplog: pytest.LogCaptureFixture) -> None:
    failing, watcher = Failing(), Watcher()
    isolate(failing)
    with caplog.at_level(logging.WARNING):
        trainer(failing, watcher).predict(module(), data())
    assert "ZeroDivisionError in on_block" in caplog.text
    assert len(watcher.blocks) > 1


def test_a_compiled_network_trains_and_its_checkpoint_fits_with_and_without_compilation(tmp_path: Path) -> None:
    def compiled() -> Any:
        return torch.compile(network(), backend="eager")

    plain, own = module(objective=DiffusionForcing(), ema=0.5), module(objective=DiffusionForcing(), ema=0.5)
    own.backbone = compiled()
    own.backbone.load_state_dict({f"_orig_mod.{name}": value for name, value in plain.backbone.state_dict().items()})
    for each in (plain, own):
        torch.manual_seed(1)
        fitting = trainer(max_steps=2)
        fitting.fit(each, RolloutData(train_dataset=CLIPS, batch_size=2))
        fitting.save_checkpoint(tmp_path / "a.ckpt")
    average, block = own.average.module.state_dict(), RolloutData(prompts=PROMPTS[:1], seconds=0.3)
    for name, value in plain.average.module.state_dict().items():
        torch.testing.assert_close(average[name], value)
    for backbone in (network(), compiled()):
        loaded = RolloutModule.load_from_checkpoint(tmp_path / "a.ckpt", **(parts() | {"backbone": backbone}))
        for name, value in loaded.backbone.state_dict().items():
            assert torch.equal(value, average[name.removeprefix("_orig_mod.")]), name
        assert trainer().test(loaded, block, verbose=False)
        for weight in backbone.parameters():
            weight.data.zero_()
        fresh = RolloutModule(**(parts() | {"backbone": backbone}))
        trainer().test(fresh, block, ckpt_path=tmp_path / "a.ckpt", verbose=False)
        assert all(map(torch.equal, fresh.backbone.state_dict().values(), average.values()))


@pytest.mark.parametrize(("chosen", "mode"), [(True, "default"), ("max-autotune", "max-autotune")])
def test_compile_rolls_the_network_under_torch_compile(chosen: Any, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []

    def compiling(self: torch.nn.Module, mode: str) -> None:
        modes.append(mode)
        self._compiled_call_impl = torch.compile(self._call_impl, backend="eager", fullgraph=True)

    monkeypatch.setattr(torch.nn.Module, "compile", compiling)
    (frames,) = trainer().predict(module(), two_blocks())
    assert not modes
    own = module(compile=chosen)
    names = set(own.state_dict())
    (compiled,) = trainer().predict(own, two_blocks())
    assert modes == [mode]
    assert set(own.state_dict()) == names
    assert one_level(compiled, frames)


def test_a_compiled_network_is_what_the_pipeline_rolls() -> None:
    own = module()
    (frames,) = trainer().predict(own, two_blocks())
    passes: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        passes.append(1)
        return graph.forward

    own.backbone = torch.compile(own.backbone, backend=backend)  # type: ignore[assignment]
    assert own.pipeline.backbone is own.backbone
    (compiled,) = trainer().predict(own, two_blocks())
    assert passes
    assert one_level(compiled, frames)
