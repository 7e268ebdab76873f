"""States the budget before a rollout, refuses what cannot fit, and explains an allocation that fails on the way."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from rollforge.budget.free import bytes_on, free_memory
from rollforge.budget.lines import budget_of
from rollforge.budget.memory_input import MemoryInput, work_of
from rollforge.budget.settings import fitting, savings
from rollforge.budget.table import Budget
from rollforge.data.requests import Request
from rollforge.errors import UserError, ran_out
from rollforge.spec import ModelSpec
from rollforge.video import PICTURES

if TYPE_CHECKING:
    from rollforge.lightning.module import RolloutModule

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MemoryCheck:
    """The work that a command is about to do, and the bytes free for it on each device."""

    work: MemoryInput
    free: Mapping[str, int | None]

    @classmethod
    def of(cls, module: RolloutModule, trainer: Any, requests: Sequence[Request], batch: int = 1) -> Self:
        """For a module that ``trainer`` rolls, ``batch`` requests together. Processes of one machine share its CPU."""
        device = str(trainer.strategy.root_device)
        work = input_for(module, requests, batch, device, str(trainer.precision))
        free = {place: free_memory(place) for place in (device, work.decoding.device, "cpu")}
        if free["cpu"] is not None:
            held = bytes_on("cpu", [module.codec, *([module.backbone] if device == "cpu" else [])])
            free["cpu"] = free["cpu"] // trainer.num_devices + held
        return cls(work, free)

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

    def check(self) -> Budget:
        """Logs the budget. Raises ``UserError``, with the table and what would fit, where it does not fit."""
        budget = self.budget
        if not budget.fits:
            raise UserError(f"This does not fit into memory.\n{budget.table()}\n{self.advice()}")
        log.info("Memory:\n%s", budget.table())
        return budget

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

    @contextmanager
    def explained(self, kept: str = "") -> Iterator[None]:
        """Turns an allocation that fails inside into a ``UserError`` with the table and what to change.

        ``kept`` says where to find what was made until then.
        """
        try:
            yield
        except (RuntimeError, MemoryError) as error:  # torch's own error is a RuntimeError
            if not ran_out(error):
                raise
            first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            table = self.budget.table()
            raise UserError(
                f"The memory ran out ({first}).{kept}\nThe budget was:\n{table}\n{self.remedy()}"
            ) from error

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
