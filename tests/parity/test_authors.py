"""Whole rollouts against the authors' own released programs, number by number.

A case is a folder of ``meta.json``, ``weights``, ``inputs`` and ``outputs.safetensors``; ``ROLLFORGE_PARITY_DIR`` names
the folder of cases (default: ``shared/parity`` beside the repository). Cases are chosen by what ``meta.json`` says of
their kind and policy; those that no policy of rollforge computes are skipped under their name.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from averaging_policies import MemRoPE, RewardForcing
from safetensors.torch import load_file
from torch import Tensor

from rollforge.backbones.base import Condition
from rollforge.backbones.wan.network import Wan
from rollforge.errors import UserError
from rollforge.memory import Rope
from rollforge.noise import FixedNoise, Shape
from rollforge.policies import AttentionSink, CachePolicy, LongLive, RollingSink, SlidingIndices, Window
from rollforge.positions.rope import rotate
from rollforge.rollout import Rollout
from rollforge.rollout.iterator import Schedule
from rollforge.samplers import FewStep, Job, Passes
from rollforge.spec import Step

CASES = Path(os.environ.get("ROLLFORGE_PARITY_DIR") or Path(__file__).parents[3] / "shared" / "parity")
TOLERANCE = 1e-5  # max abs difference over the whole rollout


def cases() -> Iterator[Any]:
    """Every folder of cases; what cannot be computed here is skipped and says why."""
    for file in sorted(CASES.rglob("meta.json")):
        meta, folder = json.loads(file.read_text()), file.parent
        kind, policy = meta.get("kind", "rollout"), meta.get("policy")
        if kind != "rollout":
            reason = f"{folder.name} is a case of {kind} ({meta.get('method')}), not a rollout"
            yield pytest.param(folder, marks=pytest.mark.skip(reason=reason))
        elif policy_of(meta) is None:
            reason = f"{folder.name}: rollforge has no policy that computes {policy!r}"
            yield pytest.param(folder, marks=pytest.mark.skip(reason=reason))
        else:
            yield folder


def policy_of(meta: dict[str, Any]) -> CachePolicy | None:
    """The policy that a case's sentence names, where rollforge has it."""
    said, block = str(meta["policy"]).lower(), meta["block"]
    context, sink = meta["window"] // block - 1, meta["sink"] // block
    if said.startswith("rolling_sink"):
        k, s = (int(re.search(rf"\b{name}=(\d+)", said)[1]) for name in "ks")  # type: ignore[index]
        return RollingSink(k, s)
    if said.startswith("reward forcing"):
        return RewardForcing(meta["window"], meta["sink"], meta["ema"])
    if said.startswith("memrope"):
        return MemRoPE(meta["window"], meta["sink"], meta["ema_long"], meta["ema_short"])
    if said.startswith("window") and not sink:
        return Window(context)
    if not said.startswith("attention sink"):
        return None
    if "recache" in said:
        return LongLive(context, sink, global_sink=meta["global_sink"])
    assert ("relative" in said) != ("absolute" in said), f"what time indices does {said!r} mean?"
    return SlidingIndices(context, sink) if "relative" in said else AttentionSink(context, sink)


FOLDERS = list(cases())


class CommitsAll(FewStep):
    """Makes the first ``blocks`` blocks of a longer video, so that the last of them is committed as the others are."""

    def __init__(self, blocks: int, meta: dict[str, Any]) -> None:
        steps, first = meta["denoising_steps"], meta.get("denoising_steps_first_block")
        super().__init__(steps, shift=1.0, context_noise=meta.get("context_noise", 0), first_timesteps=first)
        self.blocks = blocks

    def run(self, job: Job) -> Passes:
        return super().run(replace(job, steps=islice(job.steps, self.blocks)))


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


def prompts_of(meta: dict[str, Any], inputs: dict[str, Tensor]) -> Schedule:
    """The prompts of a case, by the frame from which on each was asked for."""
    if "prompts" not in inputs:
        return {0: Condition("case", inputs["prompt_embeds"])}
    starts = {0: 0} | {switch["frame_asked"]: switch["prompt"] for switch in meta["switches"]}
    return {frame: Condition(f"prompt {n}", inputs["prompts"][n]) for frame, n in starts.items()}


def build(folder: Path, meta: dict[str, Any], inputs: dict[str, Tensor]) -> Wan:
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


def difference(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max().item()


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


ABSENT = pytest.mark.skip(reason=f"no parity cases under {CASES}; name their folder with ROLLFORGE_PARITY_DIR")


@pytest.mark.parametrize("folder", FOLDERS or [pytest.param(CASES, marks=ABSENT)], ids=lambda folder: folder.name)
def test_a_whole_rollout_equals_the_authors_program(folder: Path, kept: Any) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    inputs, outputs = load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")
    model, policy, given = build(folder, meta, inputs), policy_of(meta), inputs.get("initial_latent")
    assert policy is not None
    block, blocks, opened = meta["block"], meta["frames"] // meta["block"], meta.get("given_frames", 0)
    sampler = CommitsAll(blocks - opened // block, meta)

    rollout = Rollout(model, policy, sampler, CaseNoise(folder, opened))
    run = rollout(prompts_of(meta, inputs), frames=(blocks + 1) * block, given=given)
    made = []
    with pytest.raises(UserError, match="ended before block"):  # as it should: the last block of a case is committed
        made.extend(run)
    assert [done.index for done in made] == list(range(blocks))
    assert difference(torch.cat([done.latents for done in made], dim=1), outputs["latents"]) <= TOLERANCE

    relative = "relative" in meta["policy"].lower()
    held = buffer(run.policy, Step.of(blocks - 1, block), relative)
    rotation = Rope().rotation(model.spec, [time for _, time in held], torch.device("cpu"))
    for layer in range(meta["layers"]):
        if f"kv.{layer}.k" not in outputs:
            continue
        k, v = (torch.cat(parts, dim=1) for parts in zip(*(kept[frame][layer] for frame, _ in held), strict=True))
        for ours, name in ((k if relative else rotate(k, rotation), "k"), (v, "v")):
            theirs = outputs[f"kv.{layer}.{name}"]
            assert difference(ours, theirs) <= TOLERANCE * max(1.0, theirs.abs().max().item())
