"""Whole rollouts against the authors' own released programs, number by number.

A case is a folder of ``meta.json``, ``weights``, ``inputs`` and ``outputs.safetensors``; ``ROLLFORGE_PARITY_DIR`` names
the folder of cases (default: ``shared/parity`` beside the repository).
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rollforge.backbones.base import Condition
from rollforge.backbones.wan.network import Wan
from rollforge.memory import Plain, Rope
from rollforge.memory.rope import rotate
from rollforge.noise import FixedNoise
from rollforge.policies import AttentionSink, CachePolicy, RollingSink, SlidingIndices, Window
from rollforge.rollout import Rollout
from rollforge.samplers import FewStep, Job, Passes
from rollforge.spec import Step

CASES = Path(os.environ.get("ROLLFORGE_PARITY_DIR") or Path(__file__).parents[3] / "shared" / "parity")
FOLDERS = sorted(meta.parent for meta in CASES.glob("*/meta.json"))
TOLERANCE = 1e-5  # max abs difference over the whole rollout


class CommitsAll(FewStep):
    """Makes the first ``blocks`` blocks of a longer video, so that the last of them is committed as the others are."""

    def __init__(self, blocks: int, timesteps: list[float], context_noise: float) -> None:
        super().__init__(timesteps, shift=1.0, context_noise=context_noise)  # the steps of a case are warped already
        self.blocks = blocks

    def run(self, job: Job) -> Passes:
        return super().run(replace(job, steps=islice(job.steps, self.blocks)))


class Recorder(Plain):
    """Remembers every frame that enters the cache, ``[frame * layers + layer]``."""

    def __init__(self) -> None:
        self.kept: list[tuple[Tensor, Tensor]] = []

    def encode(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.kept.append(super().encode(k, v))
        return self.kept[-1]


def policy_of(meta: dict[str, Any]) -> CachePolicy:
    """The policy that a case's sentence names."""
    said, block = str(meta["policy"]).lower(), meta["block"]
    context, sink = meta["window"] // block - 1, meta["sink"] // block
    if said.startswith("rolling_sink"):
        k, s = (int(re.search(rf"\b{name}=(\d+)", said)[1]) for name in "ks")  # type: ignore[index]
        return RollingSink(k, s)
    if sink == 0:
        return Window(context)
    assert ("relative" in said) != ("absolute" in said), f"what time indices does {said!r} mean?"
    return SlidingIndices(context, sink) if "relative" in said else AttentionSink(context, sink)


def build(folder: Path, meta: dict[str, Any], inputs: dict[str, Tensor]) -> Wan:
    """The tiny Wan network of a case."""
    _, frames, channels, height, width = inputs["noise"].shape
    assert frames == meta["frames"]
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

    LongLive counts relative to the window and keeps its keys raw, in the order of their content. The others keep them
    rotated, in the order of their time; Rolling Sink has already replaced what the next block will see rolled.
    """
    plan, following = policy.plan(last), policy.plan(replace(last, index=last.index + 1, start=last.frames.stop))
    own = [(frame, plan.query + n) for n, frame in enumerate(last.frames)]
    if relative:
        return sorted([*plan.entries(), *own])
    content = {time: frame for frame, time in (*plan.entries(), *own, *following.entries())}
    return [(content[time], time) for time in sorted(content)]


ABSENT = pytest.mark.skip(reason=f"no parity cases under {CASES}; name their folder with ROLLFORGE_PARITY_DIR")


@pytest.mark.parametrize("folder", FOLDERS or [pytest.param(CASES, marks=ABSENT)], ids=lambda folder: folder.name)
def test_a_whole_rollout_equals_the_authors_program(folder: Path) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    inputs, outputs = load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")
    model, policy, recorder = build(folder, meta, inputs), policy_of(meta), Recorder()
    block, layers, blocks = meta["block"], meta["layers"], meta["frames"] // meta["block"]
    sampler = CommitsAll(blocks, meta["denoising_steps"], meta.get("context_noise", 0))
    noise = FixedNoise(str(folder / "inputs.safetensors"))

    rollout = Rollout(model, policy, sampler, noise, kv_codec=recorder)
    made = list(rollout(Condition("case", inputs["prompt_embeds"]), frames=(blocks + 1) * block))
    assert [done.index for done in made] == list(range(blocks))
    assert difference(torch.cat([done.latents for done in made], dim=1), outputs["latents"]) <= TOLERANCE

    relative = "relative" in meta["policy"].lower()
    held = buffer(policy, Step.of(blocks - 1, block), relative)
    rotation = Rope().rotation(model.spec, [time for _, time in held], torch.device("cpu"))
    for layer in range(layers):
        if f"kv.{layer}.k" not in outputs:
            continue
        kept = [recorder.kept[content * layers + layer] for content, _ in held]
        k, v = (torch.cat(parts, dim=1) for parts in zip(*kept, strict=True))
        for ours, name in ((k if relative else rotate(k, rotation), "k"), (v, "v")):
            theirs = outputs[f"kv.{layer}.{name}"]
            assert difference(ours, theirs) <= TOLERANCE * max(1.0, theirs.abs().max().item())
