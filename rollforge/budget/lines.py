"""The arithmetic of a budget: from frames to bytes.

For one rollout of B videos under L branches (2 with guidance), where a frame's keys and values are
``2 x layers x tokens x heads x head_dim`` numbers:

- keys and values in view: L x B x (visible + the longest pass) frames, one buffer of fixed size for each layer;
- raw keys and values: L x B x the frames that are kept for later plans;
- text keys and values: L x B x layers x text positions;
- a forward pass: activations, counted by running shapes through the first layers; keys and values that a commit or
  recache pass sets aside; and raw ones that are kept only around it;
- the codec: what its stream carries from block to block, and its busiest moment, which comes between passes;
- the stage after the codec, if there is one: its weights, its state and its busiest moment;
- the text encoder, which is loaded and freed before the first block, and the encoding of an opening.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache

import torch

from rollforge.backbones.base import Backbone
from rollforge.borders import WrongAnswer, whole
from rollforge.budget.decoder import encoding_bytes, finishing, footprint
from rollforge.budget.frames import Held, held
from rollforge.budget.live import tensors_in
from rollforge.budget.memory_input import MemoryInput, size_of, width_of
from rollforge.budget.passes import activations
from rollforge.budget.table import ROLLING, Budget, Line
from rollforge.errors import attribute_errors
from rollforge.memory import IdentityKVCodec, KVCodec
from rollforge.policies.base import CachePolicy
from rollforge.spec import ModelSpec

RESERVE = 10**9  # bytes of a CUDA card: workspaces of cuBLAS and cuDNN, and what fragmentation of the allocator loses


def budget_of(work: MemoryInput, free: Mapping[str, int | None]) -> Budget:
    """What the work needs against what is free."""
    return Budget(tuple(lines(work)), free)


def lines(work: MemoryInput) -> Iterable[Line]:
    """The lines of the budget."""
    yield from weight_lines(work)
    yield from _keys_and_values(work)
    yield from _decoding(work)
    yield from _finishing(work)
    yield from _reading(work)
    for device in sorted({work.device, work.decoding.device}):
        if device.startswith("cuda"):
            yield Line(
                "reserve for codec and matmul workspaces", RESERVE, device, "and fragmentation", ("opening", *ROLLING)
            )


def weight_lines(work: MemoryInput) -> Iterable[Line]:
    """What is held whatever is done."""
    name = _name(work.own_dtype)
    yield Line("weights of the network", size_of(work.backbone, work.weights), work.device, name)
    yield Line("weights of the codec", work.decoding.weights, work.decoding.device, _name(work.decoding.dtype))


def _keys_and_values(work: MemoryInput) -> Iterable[Line]:
    spec, here, computing = work.spec, work.device, work.computing
    frame = frame_bytes(work.kept, computing)
    most = max((held_by(work, policy) for policy in work.policies.values()), key=lambda each: _size(work, each))
    share = f", 1/{work.processes} of each" if work.processes > 1 else ""
    videos = f"{work.branches} x {work.batch} x {spec.layers} layers"
    yield Line(
        "keys and values in view", work.rows * most.view * frame, here,
        f"{videos} x {most.view} frames, {_name(computing)}{share}", ROLLING,
    )  # fmt: skip
    yield Line(
        "raw keys and values", work.rows * raw_bytes(work, most), here, f"{videos} x {most.raw} frames{share}", ROLLING
    )  # fmt: skip
    if text := getattr(work.backbone, "text_len", 0):
        size = work.rows * spec.layers * 2 * text * width_of(spec) * computing.itemsize
        yield Line("text keys and values", size, here, f"{videos} x {text} tokens", ROLLING)
    longest = work.fused + max(moment.passing for moment in most.moments)
    how = f"up to {longest} frames at once, with the keys and values that it stores"
    yield Line("a forward pass", pass_bytes(work, most), here, how, ("pass",))


def _decoding(work: MemoryInput) -> Iterable[Line]:
    codec, where = work.decoding, work.decoding.device
    held_by_codec = footprint(codec.codec, work.spec, codec.dtype, codec.tile)
    if held_by_codec is None:
        yield Line("decoding", 0, where, f"{type(codec.codec).__name__} cannot be counted without numbers", ROLLING)
        return
    videos = f"{work.batch} videos" if work.batch > 1 else ""
    yield Line("state of the codec", work.batch * held_by_codec.state, where, videos, ROLLING)
    alongside = getattr(codec.codec, "own_stream", False)
    how = "while the next is generated" if alongside else "between passes"
    how += f", tiles of {codec.tile}" if codec.tile else ""
    when = ROLLING if alongside else ("decoding",)
    yield Line("decoding a block", work.batch * held_by_codec.working, where, how, when)


def _finishing(work: MemoryInput) -> Iterable[Line]:
    """What the stage after the codec needs."""
    if work.finish is None:
        return
    spec, codec, name = work.spec, work.decoding.codec, type(work.finish).__name__
    yield Line("weights of the finish", size_of(work.finish), work.device, name)
    frames = codec.pixel_frames(2 * spec.block) - codec.pixel_frames(spec.block)
    needed = finishing(work.finish, codec.pixel_size(spec.width, spec.height), frames)
    if needed is None:
        yield Line("finishing", 0, work.device, f"{name} cannot be counted without numbers", ROLLING)
        return
    videos = f"{work.batch} videos" if work.batch > 1 else ""
    yield Line("state of the finish", work.batch * needed.state, work.device, videos, ROLLING)
    yield Line("finishing a block", work.batch * needed.working, work.device, "between passes", ("decoding",))


def _reading(work: MemoryInput) -> Iterable[Line]:
    """What is loaded and freed before the first block."""
    if work.conditioner is not None:
        cuda = work.device.startswith("cuda")
        with attribute_errors("conditioner", work.conditioner, "reporting its memory"):
            taken = work.conditioner.encoder_memory(work.prompts, cuda)
        if not isinstance(taken, Mapping) or not all(map(whole, taken.values())):
            raise WrongAnswer("conditioner", work.conditioner, taken, "from encoder_memory", "bytes by device")
        for device, size in taken.items():
            yield Line("text encoder", size, device, "freed before the first block", ("prompts",))
    if work.opening:
        codec = work.decoding
        size = encoding_bytes(codec.codec, work.spec, codec.dtype, codec.tile, work.opening) or 0
        yield Line("encoding the opening", size, codec.device, "freed before the first block", ("opening",))


def held_by(work: MemoryInput, policy: CachePolicy) -> Held:
    """The latent frames that one video keeps under a policy."""
    with attribute_errors("cache policy", policy, "reporting how many frames it keeps"):
        return _held(policy, work.spec.block, work.frames, work.branches, work.all_raw, work.switches, work.joint)


_held = lru_cache(maxsize=256)(held)


def pass_bytes(work: MemoryInput, most: Held) -> int:
    """Bytes that the busiest moment of a pass adds to what is held between passes."""
    frame, raw_frame = frame_bytes(work.kept, work.computing), raw_frame_bytes(work.kept, work.computing, work.kv_codec)
    active, resting = activations(work.backbone, work.computing), work.branches * most.raw
    if not as_they_are(work.kv_codec):  # keys and values of one layer are decoded before they are rotated
        active = replace(active, turning=active.turning + frame // work.spec.layers)
    lanes = work.branches if type(work.backbone).join is not Backbone.join else 1  # they may run as one batch
    widened = 2 * most.view * work.kept.tokens * width_of(work.kept) * 4 if _widens(work) else 0
    return work.batch * max(
        (moment.raw - resting) * raw_frame + lanes * moment.staged * frame
        + (active.of(lanes * (moment.passing + work.fused), moment.turned) + widened if moment.passing else 0)
        for moment in most.moments
    )  # fmt: skip


def raw_bytes(work: MemoryInput, most: Held) -> int:
    """Bytes of the raw keys and values of one memory; those of virtual frames are averages in float32."""
    precise = torch.promote_types(work.computing, torch.float32)
    raw_frame = raw_frame_bytes(work.kept, work.computing, work.kv_codec)
    return (most.raw - most.virtual) * raw_frame + most.virtual * frame_bytes(work.kept, precise)


def frame_bytes(spec: ModelSpec, dtype: torch.dtype) -> int:
    """Bytes of the keys and values of one frame over all layers."""
    numbers = sum(heads * width for heads, width in map(spec.kv_shape, range(spec.layers)))
    return 2 * spec.tokens * numbers * dtype.itemsize


@lru_cache(maxsize=16)
def raw_frame_bytes(spec: ModelSpec, dtype: torch.dtype, kv_codec: KVCodec | None) -> int:
    """The same in the form in which the KV codec keeps them."""
    plain = frame_bytes(spec, dtype)
    if kv_codec is None or as_they_are(kv_codec):
        return plain
    samples = [
        torch.empty(1, spec.tokens, *spec.kv_shape(layer), dtype=dtype, device="meta") for layer in range(spec.layers)
    ]
    try:
        return sum(tensor.nbytes for one in samples for tensor in tensors_in(kv_codec.encode(one, one)))
    except Exception:  # any KV codec, by anyone: whatever it does that needs numbers
        return plain


def as_they_are(kv_codec: KVCodec | None) -> bool:
    """Whether keys and values are kept as the network computes them."""
    return kv_codec is None or type(kv_codec) is IdentityKVCodec


def _size(work: MemoryInput, most: Held) -> int:
    """Bytes of everything that depends on the policy, to find the larger of two."""
    view = most.view * frame_bytes(work.kept, work.computing)
    return work.rows * (view + raw_bytes(work, most)) + pass_bytes(work, most)


def _widens(work: MemoryInput) -> bool:
    """Whether attention makes float32 copies of all keys and values, as under autocast on a CPU."""
    return work.device == "cpu" and work.computing != work.own_dtype


def _name(dtype: torch.dtype) -> str:
    return {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}.get(str(dtype)[6:], str(dtype)[6:])
