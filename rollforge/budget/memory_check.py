"""The budget of a rollout, before its first block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from torch import nn

from rollforge.budget.budget_check import BudgetCheck, free_for
from rollforge.budget.lines import budget_of
from rollforge.budget.memory_input import MemoryInput, work_of
from rollforge.budget.settings import fitting, savings
from rollforge.budget.table import Budget
from rollforge.data.requests import Request
from rollforge.spec import ModelSpec
from rollforge.video import PICTURES

if TYPE_CHECKING:
    from rollforge.lightning.module import RolloutModule


@dataclass(frozen=True)
class MemoryCheck(BudgetCheck):
    """The work that a command is about to do, and the bytes free for it on each device."""

    work: MemoryInput
    free: Mapping[str, int | None]

    @classmethod
    def of(cls, module: RolloutModule, trainer: Any, requests: Sequence[Request], batch: int = 1) -> Self:
        """For a module that ``trainer`` rolls, ``batch`` requests together."""
        device = str(trainer.strategy.root_device)
        work = input_for(module, requests, batch, device, str(trainer.precision))
        held: list[nn.Module] = [module.codec, *([module.backbone] if device == "cpu" else [])]
        return cls(work, free_for(trainer, (device, work.decoding.device), held))

    @classmethod
    def on_card(
        cls, module: RolloutModule, free: int, precision: str, requests: Sequence[Request], batch: int = 1
    ) -> Self:
        """For a CUDA card with ``free`` bytes in a machine that is not this one."""
        return cls(input_for(module, requests, batch, "cuda:0", precision), {"cuda:0": free, "cpu": None})

    @property
    def budget(self) -> Budget:
        """The table."""
        return budget_of(self.work, self.free)

    def advice(self) -> str:
        """The settings that would make it fit, in one sentence."""
        if settings := fitting(self.work, self.free):
            return f"It would fit with {' and '.join(settings)}."
        if self.budget.lacks_for_prompts:
            return (
                "The text encoder does not fit; encode the prompts on a machine with more memory, and copy its cache "
                "of text features here."
            )
        return "No setting of these parts makes it fit; take a smaller height and width, or a machine with more memory."

    def remedy(self) -> str:
        """What to change after the memory has run out although the budget said that it would do."""
        told = savings(self.work)
        if not told:
            return "Free memory that other programs hold, or take a smaller height and width."
        return f"Free memory that other programs hold, or set {told[0]}{', or '.join(['', *told[1:]])}."


def input_for(
    module: RolloutModule, requests: Sequence[Request], batch: int, device: str, precision: str
) -> MemoryInput:
    """The work of a module on ``device`` that rolls ``batch`` of these requests together."""
    policies = {"model.policy": module.policy, "model.compare_policy": module.compare_policy}
    prompts = [prompt for request in requests for prompt in request.prompts.values()]
    guided = [module.negative_prompt] if "negative" in module.sampler.guidance_branches else []
    spec = module.backbone.spec
    return work_of(
        module.backbone, module.codec, module.sampler, {key: each for key, each in policies.items() if each},
        device=device, frames=max(request.frames for request in requests), batch=min(batch, len(requests)),
        precision=precision, rope=module.rope, kv_codec=module.kv_codec,
        switches=sorted({start for request in requests for start in request.prompts if start}),
        conditioner=module.conditioner, prompts=list(dict.fromkeys([*prompts, *guided])),
        opening=max(_opening_length(request, spec) for request in requests),
    )  # fmt: skip


def _opening_length(request: Request, spec: ModelSpec) -> int:
    """Latent frames of an opening, at most; 0 where there is none."""
    if request.opening is None:
        return 0
    if request.opening.suffix.lower() in PICTURES:
        return 1
    return min(request.frames, request.opening_frames or max(1, spec.horizon - spec.block))
