"""Whole rollouts, in the processes of one video or in a process alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from rollforge.backbones.base import Condition
from rollforge.backbones.wan.network import Wan
from rollforge.parallel import ContextGroup
from rollforge.policies import CachePolicy, LongLive, RollingSink, Window
from rollforge.positions import Rope
from rollforge.rollout import Rollout
from rollforge.samplers import Euler
from rollforge.spec import ModelSpec, ReadPlan, Step, Virtual

FRAMES = 8


class Biased(Window):
    """Reads its first run louder, and in the second layer alone."""

    def plan(self, step: Step) -> ReadPlan:
        plan = super().plan(step)
        runs = [replace(run, bias=0.7, layers=range(1, 2)) for run in plan.segments[:1]]
        return replace(plan, segments=(*runs, *plan.segments[1:]))


class Averaged(RollingSink):
    """Reads the mean of the first two frames in place of the first one."""

    def virtual(self, step: Step) -> list[Virtual]:
        return [Virtual(-1, (0, 1))] if step.start == 2 else []

    def plan(self, step: Step) -> ReadPlan:
        plan = super().plan(step)
        return ReadPlan.of([(content or -1, time) for content, time in plan.entries()], plan.query)

    def live(self, start: int, block: int) -> frozenset[int]:
        return super().live(start, block) | {-1, 0, 1}

    def moves(self, start: int, block: int) -> frozenset[int]:
        return self.live(start, block)


class OwnFrequencies(Rope):
    """Each head has temporal frequencies of its own."""

    def temporal(self, spec: ModelSpec, step: Step | None = None) -> Tensor:
        return super().temporal(spec, step) * torch.linspace(0.5, 2, spec.heads)[:, None]


class Case(NamedTuple):
    """A rollout: its policy, heads of the network, positions, and whether a state in the middle is resumed from."""

    policy: CachePolicy
    heads: int = 4
    positions: Any = None
    guidance: float = 2.0
    resumes: bool = False


CASES = {
    "window": Case(Window(2)),
    "rolling sink": Case(RollingSink(2, 1), resumes=True),
    "long live": Case(LongLive(2, 1)),
    "long live, block by block": Case(LongLive(2, 1, recache="block"), 2),
    "rolling sink, three heads": Case(RollingSink(2, 1), 3, guidance=1.0, resumes=True),
    "biased": Case(Biased(2), 2),
    "averaged": Case(Averaged(2, 1), 2),
    "own frequencies": Case(RollingSink(2, 1), 2, OwnFrequencies()),
}


def backbone(heads: int) -> Wan:
    torch.manual_seed(0)
    model = Wan(2, 4, 8, 12 * heads, 2, heads, 32, 16, 4, 3, block=2, window=6, horizon=6, weights="random").eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return model.requires_grad_(False)


@cache
def group_of(heads: int, processes: int) -> ContextGroup:
    return ContextGroup(backbone(heads).spec, processes)


def text(seed: int) -> Condition:
    return Condition(f"text {seed}", torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(seed)))


@torch.no_grad()
def rolled(case: Case, processes: int = 1) -> dict[str, Any]:
    """Latents, and those of a rollout that continues from its state after the second block; bytes kept."""
    model = backbone(case.heads)
    group = group_of(case.heads, processes) if processes > 1 else None
    sampler = Euler(steps=2, guidance=case.guidance)
    rollout = Rollout(model, case.policy, sampler, positions=case.positions, group=group)
    prompts, negative = {0: text(0), 6: text(1)}, text(2) if case.guidance != 1 else None

    def start(**more: Any) -> Any:
        return rollout(prompts, FRAMES, seed=0, negative=negative, **more)

    blocks = start()
    first = [next(blocks).latents for _ in range(2)]
    state = blocks.state_dict()
    rest = [block.latents for block in blocks]
    resumed = [block.latents for block in start(state=state)] if case.resumes else rest
    whole = torch.cat([*first, *rest], 1)
    return {"latents": whole, "resumed": torch.cat([*first, *resumed], 1), "bytes": kept(blocks.passes.memories)}


def kept(memories: Any) -> int:
    """Bytes of the keys and values of all memories."""
    return sum(tensor.nbytes for memory in memories.values() for tensor in buffers(memory))


def buffers(memory: Any) -> Iterator[Tensor]:
    for view in memory._views.values():
        yield from (view.keys, view.values)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    found = {name: rolled(case, processes) for name, case in CASES.items()}
    torch.save(found, folder / f"{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)
