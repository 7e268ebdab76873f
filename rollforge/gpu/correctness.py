"""Correctness at toy size: each rollout on the device in float32 against the same one on the CPU in float64."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rollforge.gpu.models import Setup, toy, toy_text
from rollforge.gpu.report import Recorder
from rollforge.memory import FullMemory, MaskedMemory, RoutedMemory
from rollforge.memory.base import Memory
from rollforge.policies import LongLive, RollingSink, Window
from rollforge.registry import registry
from rollforge.rollout import Rollout
from rollforge.rollout.iterator import RolloutIterator
from rollforge.samplers import Euler, FewStep
from rollforge.state import moved

LIMIT = 1e-3
"""Largest difference of latents, whose values are around 1. Policies differ from each other by 5e-3 and more."""
FRAMES, FULL = 30, 8  # latent frames of a toy rollout; the block from which on the default window of 21 is full


@dataclass(frozen=True)
class Case:
    """One rollout of the toy.

    Args:
        parts: arguments of ``Rollout``, less the backbone.
        frames: latent frames.
        rows: prompts in the batch.
        switch: the frame at which the prompt changes; None for one prompt.
    """

    parts: dict[str, Any] = field(default_factory=dict)
    frames: int = FRAMES
    rows: int = 1
    switch: int | None = None

    def start(self, device: str, dtype: torch.dtype, state: Any = None, only: int | None = None) -> RolloutIterator:
        """The rollout on a device; of the batch's ``only`` row where that is given."""
        samples = range(self.rows) if only is None else [only]
        prompts = {0: self._text("first", samples)}
        if self.switch is not None:
            prompts[self.switch] = self._text("second", samples, 0.5)
        parts = {"policy": Window(), "sampler": FewStep()} | self.parts
        rollout = Rollout(toy().to(device, dtype), **parts)
        negative = self._text("negative", samples, -0.5)
        return rollout(prompts, self.frames, seed=3, samples=list(samples), negative=negative, state=state)

    def latents(self, device: str, dtype: torch.dtype, only: int | None = None) -> Tensor:
        """All latents of the rollout, ``[B, F, C, H, W]``, on the CPU in float64."""
        return torch.cat([block.latents.double().cpu() for block in self.start(device, dtype, only=only)], dim=1)

    def _text(self, name: str, samples: Any, shift: float = 0.0) -> Any:
        whole = toy_text(name, self.rows, shift)
        return type(whole)(whole.id, whole.embeds[list(samples)])


def rollouts(setup: Setup, record: Recorder) -> None:
    """Every registered part of a rollout, then guidance, batches and prompt switches."""
    for what, build in (*_registered(record), *_combined()):
        _compare(setup, record, what, build)
    batch = Case({"policy": RollingSink()}, rows=2, switch=15)
    together = batch.latents(setup.device, torch.float32)
    alone = torch.cat([batch.latents(setup.device, torch.float32, only=row) for row in range(2)])
    _judge(record, "a batch of two against two alone, prompt switch", together, alone)


def memories(setup: Setup, record: Recorder) -> None:
    """A parallel pass and its gradients under each memory of training."""
    spec, frames = toy().spec, 12
    kinds: dict[str, Callable[[], Memory]] = {
        "teacher forcing": lambda: MaskedMemory.teacher_forcing(spec, frames // 2),
        "diffusion forcing": lambda: MaskedMemory.diffusion_forcing(spec, frames),
        "full attention": lambda: FullMemory(spec, range(frames)),
    }
    for what, memory in kinds.items():
        for name, value in _parallel(setup.device, torch.float32, memory(), frames).items():
            expected = _parallel("cpu", torch.float64, memory(), frames)[name]
            _judge(record, f"{what}, {name}", value, expected, limit=LIMIT * float(expected.abs().max()))


def resume(setup: Setup, record: Recorder) -> None:
    """A rollout that continues from a state, saved on the CPU, against the uninterrupted one: bit for bit."""
    for what, parts in (("RollingSink", {"policy": RollingSink()}), ("LongLive", {"policy": LongLive()})):
        case, states, latents = Case(parts, rows=2, switch=15), {}, []
        run = case.start(setup.device, torch.float32)
        for block in run:
            latents.append(block.latents)
            if block.index in (2, 4, FULL):
                states[block.index] = moved(run.state_dict(), torch.device("cpu"))
        for index, state in states.items():
            rest = [block.latents for block in case.start(setup.device, torch.float32, state=state)]
            equal = len(rest) == len(latents) - index - 1 and all(map(torch.equal, rest, latents[index + 1 :]))
            record(f"{what}, continued after block {index}", {"blocks": len(rest)}, equal)


def host_syncs(setup: Setup, record: Recorder) -> None:
    """Places where the host waits for the device inside one block with a full window. There should be none."""
    if setup.device != "cuda":
        return record("host syncs in one block", {"skipped": "needs CUDA"})
    for what, parts in (
        ("Window", {}), ("RollingSink", {"policy": RollingSink()}), ("fuse_commit", {"fuse_commit": True})
    ):  # fmt: skip
        run = Case(parts).start(setup.device, torch.float32)
        for _ in range(FULL + 1):
            next(run)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                next(run)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        places: dict[str, int] = {}
        for warning in caught:
            if "synchroniz" in str(warning.message):
                place = f"{Path(warning.filename).name}:{warning.lineno}"
                places[place] = places.get(place, 0) + 1
        count = sum(places.values())
        record(f"host syncs in one block, {what}", {"count": count, "places": places}, not places)
    return None


def _registered(record: Recorder) -> Iterator[tuple[str, Case]]:
    """A case for each registered part that can be built without arguments."""
    for kind, argument in (("cache", "policy"), ("sampler", "sampler"), ("noise", "noise"), ("positions", "positions"),
                           ("kv_codec", "kv_codec")):  # fmt: skip
        for part in registry().of(kind):
            cls = part.load()
            needed = [each.name for each in inspect.signature(cls).parameters.values() if each.default is each.empty]
            if needed:
                record(f"{kind} {part.name}", {"skipped": f"needs {', '.join(needed)}"})
                continue
            # 32 steps a block, for example, are enough passes in a few blocks
            yield f"{kind} {part.name}", Case({argument: cls()}, frames=9 if kind == "sampler" else FRAMES)


def _combined() -> Iterator[tuple[str, Case]]:
    guided = {"sampler": Euler(steps=4, guidance=3.0)}
    yield "guidance", Case(guided | {"policy": RollingSink()})
    yield "guidance, batch of two, prompt switch", Case(guided | {"policy": LongLive()}, rows=2, switch=15)
    yield "batch of two, prompt switch", Case({"policy": RollingSink()}, rows=2, switch=27)
    yield "fuse_commit, guidance", Case(guided | {"policy": RollingSink(), "fuse_commit": True})
    chosen = partial(RoutedMemory, top_k=6, choice="frame")
    for what, memory in (("all frames", RoutedMemory), ("6 frames of each block", chosen)):
        routed = {"memory": memory, "policy": RollingSink()}
        yield f"memory RoutedMemory, {what}", Case(routed, rows=2, switch=15)


def _compare(setup: Setup, record: Recorder, what: str, case: Case) -> None:
    try:
        _judge(record, what, case.latents(setup.device, torch.float32), case.latents("cpu", torch.float64))
    except Exception as error:  # one part that fails must not hide the others
        record(what, {"error": f"{type(error).__name__}: {error}"[:300]}, False)


def _judge(record: Recorder, what: str, value: Tensor, expected: Tensor, limit: float = LIMIT) -> None:
    difference = float((value.double().cpu() - expected.double().cpu()).abs().max())
    record(what, {"difference": difference, "largest": float(expected.abs().max())}, difference <= limit)


def _parallel(device: str, dtype: torch.dtype, memory: Memory, frames: int) -> dict[str, Tensor]:
    """The flow of one parallel pass, and gradients of its mean square."""
    backbone = toy().to(device, dtype)
    latents = torch.randn(1, frames, *backbone.spec.latent_shape, generator=torch.Generator().manual_seed(1))
    times = torch.linspace(0, 1000, frames)[None]
    with torch.enable_grad():
        text = toy_text("first", 1).to(device, dtype)
        flow = backbone(latents.to(device, dtype), times.to(device), text, memory)
        flow.square().mean().backward()
    weight = backbone.patch_embedding.weight.grad
    assert weight is not None
    return {"flow": flow.detach(), "gradients": weight}
