"""The LightningModule around a pipeline: rollouts in ``predict`` and ``test``, training in ``fit``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from inspect import Parameter, signature
from typing import Annotated, Any, Self

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from rollforge.backbones.base import Backbone, Conditioner, VideoCodec
from rollforge.backbones.low_rank import LowRank, set_trained
from rollforge.backbones.weights import check_fit
from rollforge.data.requests import Request
from rollforge.errors import UserError
from rollforge.evaluation.trainer_metrics import MeanCurves
from rollforge.files.checkpoints import read_checkpoint
from rollforge.finish.base import Finish
from rollforge.lightning.average import Average
from rollforge.lightning.data import RolloutData
from rollforge.lightning.parallel import data_parallel, shard
from rollforge.lightning.precision import float32_by_default, keeping_format
from rollforge.lightning.training import TrainedModule
from rollforge.memory import Attention, Combine, KVCodec, MakeMemory, Positions, RolloutMemory
from rollforge.metrics.base import Metric
from rollforge.noise import NoisePrior
from rollforge.objectives.base import Objective
from rollforge.objectives.multigrid import Multigrid
from rollforge.parallel import ContextGroup, check_processes
from rollforge.pipeline import Pipeline
from rollforge.pipeline.components import Compile
from rollforge.pipeline.video_rollout import VideoBlock, VideoRollout
from rollforge.policies.base import CachePolicy
from rollforge.ranges import Count, CountFromZero, Range, checked
from rollforge.rollout.block_check import BlockCheck
from rollforge.samplers.base import Sampler

Rollouts = Callable[[Sequence[Request]], Generator[VideoRollout]]
NETWORKS = ("backbone", "conditioner", "codec", "finish")


@checked
class RolloutModule(TrainedModule):
    """A ``Pipeline`` with what it needs to be trained.

    Args:
        backbone: the network.
        conditioner: encodes prompts to text features.
        codec: encodes pixels to latents and decodes them.
        policy: which committed frames a block attends to, and at which time index.
        sampler: how a block is denoised.
        noise: noise prior of a block. Default: independent noise for every frame.
        positions: how queries and keys are rotated by their time indices. Default: what the backbone was trained with.
        kv_codec: how keys and values are cached. Default: unchanged.
        block_check: what happens to an invalid block (NaN, infinite or too large). Default: the rollout stops.
        negative_prompt: the prompt that guidance leads away from. Default: the empty one.
        memory: memory of a rollout. Default: ``RolloutMemory``.
        combine: what joins the branches of a plan that has several.
        attention: the kernel that memories attend with. Default: torch's, as it chooses.
        compile: whether rollouts run the network under ``torch.compile``, and in which of its modes; true is
            ``default``. The first blocks take minutes longer, later starts less (torch keeps what it compiled).
        finish: stage that processes decoded frames before they are displayed and written. Default: none.
        measure_finished: whether metrics get finished frames. Default: they get the frames as decoded.
        context_parallel: processes (GPUs) that make one video together in ``predict`` and ``test``, each with a share
            of the tokens and heads. ``trainer.devices`` times ``trainer.num_nodes`` is a multiple of it. Default: 1.
        fuse_commit: whether a block is committed in one pass with the first step of the next block, which is one pass
            less. The policy and the other components must allow it.
        compare_policy: a second policy, run with the same prompts and seeds and shown next to the first.
        metrics: what ``test`` measures. Default: ``DriftSuite``.
        objective: what ``fit`` minimises.
        multigrid: clip lengths and sizes over the training, shortest and smallest first. Default: full clips.
        ema: decay of the average of the trained weights, which samples and the exported file use; 0 disables it.
        ema_start: training step at which averaging starts; until then the average equals the weights.
        lora: trains low-rank matrices next to linear layers of the trained component, which keep their own weights.
        optimizer: the optimizer of the trained component.
        scheduler: its learning-rate schedule, stepped with every optimizer step. A plateau schedule watches ``loss``
            unless it names another ``monitor``.
    """

    config_section = "model"

    def __init__(
        self,
        backbone: Backbone,
        conditioner: Conditioner,
        codec: VideoCodec,
        policy: CachePolicy,
        sampler: Sampler,
        noise: NoisePrior | None = None,
        positions: Positions | None = None,
        kv_codec: KVCodec | None = None,
        block_check: BlockCheck | None = None,
        negative_prompt: str = "",
        memory: MakeMemory | None = None,
        combine: Combine | None = None,
        attention: Attention | None = None,
        compile: Compile = False,
        finish: Finish | None = None,
        measure_finished: bool = False,
        context_parallel: Count | None = None,
        fuse_commit: bool = False,
        compare_policy: CachePolicy | None = None,
        metrics: list[Metric] | None = None,
        objective: Objective | None = None,
        multigrid: Multigrid | None = None,
        ema: Annotated[float, Range(0, below=1)] = 0.0,
        ema_start: CountFromZero = 0,
        lora: LowRank | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        optional: dict[str, Any] = {
            "noise": noise, "positions": positions, "kv_codec": kv_codec, "block_check": block_check,
            "memory": memory or RolloutMemory, "combine": combine, "attention": attention,
        }  # fmt: skip
        self.backbone, self.conditioner, self.codec = backbone, conditioner, codec
        self.pipeline = Pipeline(
            backbone=backbone, conditioner=conditioner, codec=codec, policy=policy, sampler=sampler,
            negative_prompt=negative_prompt, compile=compile, finish=finish, measure_finished=measure_finished,
            context_parallel=context_parallel, fuse_commit=fuse_commit,
            **{name: part for name, part in optional.items() if part is not None},
        )  # fmt: skip
        self.compare_policy, self.metrics = compare_policy, metrics or []
        self.objective, self.optimizer, self.scheduler = objective, optimizer, scheduler
        self.critic = objective.critic if objective else None
        if finish is not None and (objective is None or objective.trains == "finish"):
            self.finish = finish  # a checkpoint of another training does without its weights
        self.multigrid = multigrid
        self.rollouts: Rollouts | None = None  # what a callback has put in place of ``_rollouts``
        if objective and lora:
            lora.adapt(self.trained)
        if objective and ema:
            self.average = Average(self.trained, ema, ema_start)

    def __setattr__(self, name: str, value: Any) -> None:
        """Also replaces the network of the pipeline, as for ``module.backbone = torch.compile(module.backbone)``."""
        super().__setattr__(name, value)
        if name in NETWORKS and "pipeline" in vars(self):
            setattr(self.pipeline, name, value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RolloutModule:
        """Moves everything. Only the backbone changes its number format with the Trainer's ``precision``."""
        for part in self.children():
            part._apply(fn if part is self.backbone else keeping_format(fn))
        if self.objective is not None and self.objective.teacher is not None:
            self.objective.teacher._apply(fn)
        if self.pipeline.finish is not None and "finish" not in self._modules:
            self.pipeline.finish._apply(keeping_format(fn))
        super()._apply(fn, recurse=False)
        return self

    def setup(self, stage: str) -> None:
        for part in self.networks:
            set_trained(part, stage == "fit" and part is self.trained)
        if self.pipeline.finish is not None and "finish" not in self._modules:
            self.pipeline.finish.eval().requires_grad_(False)
        if self.pipeline.divided and self.pipeline.group is None and self._trainer is not None:
            check_together(stage, self.pipeline.together, self._trainer.world_size)
            device = self._trainer.strategy.root_device.type
            self.pipeline.group = ContextGroup(self.backbone.spec, self.pipeline.together, device)

    def configure_model(self) -> None:
        """Shards the trained network over the processes where the strategy is ModelParallelStrategy."""
        trainer = self._trainer
        if trainer is None or not isinstance(trainer.strategy, ModelParallelStrategy):
            return
        if trainer.state.fn != TrainerFn.FITTING or self.trained is not self.backbone:
            raise UserError("ModelParallelStrategy shards a backbone in training; use --trainer.strategy ddp here.")
        mesh = data_parallel(trainer.strategy.device_mesh)
        networks = [self.backbone, self.critic, self.average.module if self.average else None]
        for network in networks:
            if network is not None:
                shard(network, mesh)

    @property
    def policies(self) -> dict[str, CachePolicy]:
        """The policies that ``predict`` uses, one after the other, by their config key."""
        second = {"model.compare_policy": self.compare_policy} if self.compare_policy else {}
        return {"model.policy": self.pipeline.policy, **second}

    def requests(self, data: RolloutData) -> list[Request]:
        """The requests of ``data`` for this model, without those whose opening cannot be read.

        Raises ``UserError`` if none can.
        """
        return data.readable(
            data.requests(self.backbone.spec.fps, self.pipeline.pixel_frames_per_latent), self.pipeline.opening_frames
        )

    def blocks(self, requests: Sequence[Request]) -> Iterator[VideoBlock]:
        """Generates requests. Passes each finished block to callbacks with ``on_block(trainer, module, block)``."""
        callbacks: Iterable[Any] = self._trainer.callbacks if self._trainer else ()  # type: ignore[attr-defined]
        hooks = [callback.on_block for callback in callbacks if hasattr(callback, "on_block")]
        with closing((self.rollouts or self._rollouts)(requests)) as rollouts:
            for rollout in rollouts:
                for block in rollout:
                    for hook in hooks:
                        hook(self._trainer, self, block)
                    yield block

    @float32_by_default()
    def predict_step(self, batch: list[Request], batch_idx: int) -> Tensor | None:
        """Generates requests. Returns their frames, uint8 ``[B, T, H, W, 3]``, unless a callback chooses the videos."""
        if self.rollouts is None:
            return torch.cat([block.frames for block in self.blocks(batch)], dim=1)
        deque(self.blocks(batch), maxlen=0)  # a video may be longer than memory holds
        return None

    @float32_by_default()
    def test_step(self, batch: list[Request], batch_idx: int) -> None:
        """Generates requests. Logs the mean of each curve, unless a callback chooses the videos.

        Each process logs the mean over its own videos: one may have none, and would block the others.
        """
        if self.rollouts is not None:
            deque(self.blocks(batch), maxlen=0)
            return
        curves = MeanCurves(self.pipeline, self.metrics, batch)
        for block in self.blocks(batch):
            curves.add(block)
        self.log_dict(curves.means(), batch_size=len(batch))

    def _rollouts(self, requests: Sequence[Request]) -> Generator[VideoRollout]:
        """One, under the own policy."""
        yield self.pipeline.roll_requests(requests)

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **parts: Any,
    ) -> Self:
        """A module with the weights of a checkpoint of ``fit``: the averaged ones, where it has them.

        A checkpoint builds nothing: you pass the components, and its hyperparameters are ignored.

        Args:
            checkpoint_path: the file.
            map_location: the device for the weights. Default: the CPU.
            hparams_file: not supported.
            strict: whether the checkpoint must hold every weight of the module and no others. Default: True.
            weights_only: False also reads checkpoints that can run code. Default: True.
            parts: the arguments of ``RolloutModule``: ``backbone``, ``conditioner``, ``codec``, ``policy``, ``sampler``
                and any others that you need.

        Raises:
            UserError: without the components, and for a checkpoint that cannot be read or does not fit them.
        """
        parameters = signature(cls).parameters.values()
        needed = [each.name for each in parameters if each.default is Parameter.empty and each.name not in parts]
        if needed or hparams_file is not None:
            raise UserError(
                f"{cls.__name__}.load_from_checkpoint takes its parts from you and not from the checkpoint; give "
                f"{', '.join(f'{name}=...' for name in needed) or 'no hparams_file'}."
            )
        content = read_checkpoint(checkpoint_path, map_location or "cpu", weights_only is not False)
        if not isinstance(content.get("state_dict"), dict):
            raise UserError(f"{checkpoint_path} holds no state_dict and is not a checkpoint of fit; take another.")
        module = cls(**parts)
        module.load_checkpoint_weights(content["state_dict"], checkpoint_path, strict is not False)
        return module

    def load_checkpoint_weights(self, weights: dict[str, Tensor], source: Any, strict: bool = True) -> None:
        """Loads the ``state_dict`` of a checkpoint: the averaged weights, where it has them.

        Raises ``UserError`` for weights that do not fit; ``source`` names their file in it.
        """
        self.take_average(weights)
        if strict:
            check_fit(self.state_dict(), weights, type(self).__name__, source)
        self.load_state_dict(weights, strict=strict)


def check_together(command: str, processes: int | None, run: int) -> None:
    """Raises ``UserError`` where the ``run`` processes of a command cannot make videos in groups of ``processes``."""
    if (processes or 1) > 1 and command == "fit":
        raise UserError("model.context_parallel is for predict and test; leave it out of the config of fit.")
    check_processes(run, processes or 1)
