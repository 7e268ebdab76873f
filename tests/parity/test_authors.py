"""Whole rollouts against the authors' own released programs, number by number.

A case is a folder of ``meta.json``, ``weights``, ``inputs`` and ``outputs.safetensors``; ``ROLLFORGE_PARITY_DIR`` names
the folder of cases (default: ``shared/parity`` next to the repository). What computes a case is looked up in the tables
of ``methods.py`` by what ``meta.json`` says; a rollout that no table computes fails. Training cases are in
``test_training.py``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from methods import method_of
from parity_method import TOLERANCE, Meta, Method, Rolled, assert_close, difference
from safetensors.torch import load_file
from torch import Tensor

from rollforge.backbones.base import Condition
from rollforge.backbones.wan.network import Wan
from rollforge.errors import UserError
from rollforge.memory import Rope
from rollforge.noise import FixedNoise, Shape
from rollforge.policies import CachePolicy
from rollforge.positions.rope import rotate
from rollforge.rollout import Rollout, RolloutIterator
from rollforge.rollout.iterator import Schedule
from rollforge.samplers import Job, Passes, Sampler
from rollforge.spec import Step

CASES = Path(os.environ.get("ROLLFORGE_PARITY_DIR") or Path(__file__).parents[3] / "shared" / "parity")


FOLDERS: list[Any] = [
    file.parent
    for file in sorted(CASES.rglob("meta.json"))
    if json.loads(file.read_text()).get("kind", "rollout") == "rollout"
]
ABSENT = pytest.mark.skip(reason=f"no parity cases under {CASES}; name their folder with ROLLFORGE_PARITY_DIR")


def ending(sampler: Sampler, blocks: int) -> Sampler:
    """The sampler for the first ``blocks`` blocks of a longer video, so that their last is committed as the others."""

    class Ending(type(sampler)):  # type: ignore[misc] # whichever it is
        def run(self, job: Job) -> Passes:
            return super().run(replace(job, steps=islice(job.steps, blocks)))

    sampler.__class__ = Ending
    return sampler


class CaseNoise(FixedNoise):
    """The noise of a case, whose first frames may be given and whose first block may have steps of its own."""

    def __init__(self, folder: Path, given: int) -> None:
        super().__init__(str(folder / "inputs.safetensors"))
        self.given, self.first = given, load_file(folder / "inputs.safetensors").get("renoise_first")

    def draw(self, seed: int, sample: int, frames: range, level: int, shape: Shape) -> Tensor:
        start = frames.start - self.given
        if level and self.first is not None:
            if start == 0:
                return self.first[level - 1, sample]
            start -= len(frames)
        return super().draw(seed, sample, range(start, start + len(frames)), level, shape)


def prompts_of(meta: Meta, inputs: dict[str, Tensor]) -> Schedule:
    """The prompts of a case, by the frame from which on each was asked for."""
    if "prompts" not in inputs:
        return {0: Condition("case", inputs["prompt_embeds"])}
    starts = {0: 0} | {each.get("frame_asked", each["frame"]): each["prompt"] for each in meta["switches"]}
    return {frame: Condition(f"prompt {n}", inputs["prompts"][n]) for frame, n in starts.items()}


def build(folder: Path, meta: Meta, inputs: dict[str, Tensor]) -> Wan:
    """The tiny Wan network of a case."""
    _, frames, channels, height, width = inputs["noise"].shape
    assert frames + meta.get("given_frames", 0) == meta["frames"]
    model = Wan(
        channels=channels,
        height=height,
        width=width,
        **{key: meta[key] for key in ("dim", "layers", "heads", "ffn_dim", "freq_dim", "text_dim", "text_len", "eps")},
        block=meta["block"],
        window=meta["window"],
        horizon=meta["window"],
    )
    assert model.spec.tokens == meta["tokens_per_frame"]
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    return model.float().eval()


def rolled(run: RolloutIterator, method: Method, meta: Meta) -> Iterator[Tensor]:
    """The blocks of a rollout, the events of a case announced before theirs. It ends as ``ending`` lets it."""
    events = dict(method.events(meta))
    while True:
        if run.start in events:
            event, fields = events.pop(run.start)
            run.announce(event, **fields)
        try:
            yield next(run).latents
        except UserError as error:
            if "ended before block" not in str(error) or events:
                raise
            return


def buffer(policy: CachePolicy, last: Step, relative: bool) -> list[tuple[int, int]]:
    """What the released buffer holds after block ``last``, as ``(content, time)`` in buffer order.

    Those that count relative to the window keep their keys raw, in the order of their time. The others keep them
    rotated, in the same order; Rolling Sink has already replaced what the next block will see rolled.
    """
    plan, following = policy.plan(last), policy.plan(replace(last, index=last.index + 1, start=last.frames.stop))
    own = [(frame, plan.query + n) for n, frame in enumerate(last.frames)]
    if relative:
        return sorted([*plan.entries(), *own], key=lambda entry: entry[1])
    content = {time: frame for frame, time in (*plan.entries(), *own, *following.entries())}
    return [(content[time], time) for time in sorted(content)]


def check_buffer(found: Rolled) -> None:
    """The keys and values that the plans describe are those of the released buffer, where the case has it."""
    meta, outputs, spec = found.meta, found.outputs, found.run.spec
    blocks, relative = meta["frames"] // meta["block"], "relative" in meta["policy"].lower()
    held = buffer(found.run.policy, Step.of(blocks - 1, meta["block"]), relative)
    rotation = Rope().rotation(spec, [time for _, time in held], torch.device("cpu"))
    for layer in range(meta["layers"]):
        if f"kv.{layer}.k" in outputs:
            pieces = (found.kept[frame][layer] for frame, _ in held)
            k, v = (torch.cat(parts, dim=1) for parts in zip(*pieces, strict=True))
            assert_close(k if relative else rotate(k, rotation), outputs[f"kv.{layer}.k"])
            assert_close(v, outputs[f"kv.{layer}.v"])


@pytest.mark.parametrize("folder", FOLDERS or [pytest.param(CASES, marks=ABSENT)], ids=lambda folder: folder.name)
def test_a_whole_rollout_equals_the_authors_program(folder: Path, record: Any) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    method = method_of(meta)
    assert method is not None, f"{folder.name}: no table of parity cases computes {meta['policy']!r}"
    inputs, outputs = load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")
    block, opened = meta["block"], meta.get("given_frames", 0)
    blocks = meta["frames"] // block
    sampler = ending(method.sampler(meta), blocks - opened // block)

    model, noise = build(folder, meta, inputs), CaseNoise(folder, opened)
    rollout = Rollout(model, method.policy(meta), sampler, noise, **method.options(meta))
    run = rollout(prompts_of(meta, inputs), frames=(blocks + 1) * block, given=inputs.get("initial_latent"))
    made = torch.cat(list(rolled(run, method, meta)), dim=1)
    assert difference(made, outputs["latents"]) <= TOLERANCE
    (method.check or check_buffer)(Rolled(meta, outputs, run, record.kept, record.plans))
