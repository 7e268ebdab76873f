"""The arithmetic of a budget: from sizes to bytes.

For one rollout of B videos under L lanes (2 with guidance), with b frames in a block and, for each frame and layer,
``2 x tokens x heads x head_dim`` numbers of keys and values:

- keys and values in view: L x B x layers x (visible + b) frames, one buffer of fixed size for each layer;
- raw keys and values: L x B x layers x (the most frames that are kept for later plans, + b just committed);
- text keys and values: L x B x layers x text positions;
- a forward pass: B x b x tokens x (8 widths + 2 widest layers), which is an estimate, and the keys and values of the
  block that is being committed;
- the codec: what its stream carries from block to block, and its busiest moment beside that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import nn

from rollforge.backbones.base import Backbone, VideoCodec
from rollforge.backbones.wan.placement import chosen_dtype
from rollforge.budget.decoder import footprint, tensors_in
from rollforge.budget.table import Budget, Line
from rollforge.errors import blamed
from rollforge.memory import KVCodec, Plain, Rope
from rollforge.policies.base import CachePolicy
from rollforge.samplers.base import Sampler
from rollforge.spec import ModelSpec

STARTS = 300  # blocks of a video after which no policy is expected to keep more
LIVE_WIDTHS, LIVE_WIDEST = 8, 2  # tensors of a forward pass at its busiest: of the network's width, of its widest layer
WHOLE = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64, "32-true": torch.float32}
MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class Decoding:
    """A codec as it will work: where, in which dtype, in which tiles."""

    codec: VideoCodec
    device: str
    dtype: torch.dtype
    tile: int | None = None

    @property
    def weights(self) -> int:
        """Bytes of its weights."""
        return size_of(self.codec, self.dtype)


@dataclass(frozen=True)
class Work:
    """One rollout, in the numbers that decide its memory.

    Args:
        spec: the backbone's.
        backbone: the network, perhaps on the meta device.
        decoding: the codec.
        device: of the network, its keys and values.
        weights: dtype of the network's weights; None for the one they have.
        computing: dtype of its keys and values.
        lanes: memories that advance together.
        batch: videos that are rolled together.
        policies: those that are rolled, one after the other, by the key that chooses each in a config.
        frames: latent frames of the longest video.
        all_raw: whether raw keys of every live frame are kept, as they are where frequencies change with the step.
        kv_codec: how raw keys and values are kept.
    """

    spec: ModelSpec
    backbone: Backbone
    decoding: Decoding
    device: str
    weights: torch.dtype | None
    computing: torch.dtype
    lanes: int
    batch: int
    policies: Mapping[str, CachePolicy]
    frames: int
    all_raw: bool = False
    kv_codec: KVCodec | None = None

    @property
    def rows(self) -> int:
        """Memories of one video, times videos."""
        return self.lanes * self.batch


def work_of(
    backbone: Backbone,
    codec: VideoCodec,
    sampler: Sampler,
    policies: Mapping[str, CachePolicy],
    *,
    device: str,
    frames: int,
    batch: int = 1,
    precision: str = "32-true",
    rope: Rope | None = None,
    kv_codec: KVCodec | None = None,
) -> Work:
    """The work of parts on ``device``. ``precision`` is the Trainer's."""
    own = next((weight.dtype for weight in backbone.parameters() if weight.is_floating_point()), torch.float32)
    whole = WHOLE.get(precision) if precision != "32-true" else None
    decoding = Decoding(codec, *_place(codec, device), getattr(codec, "tile", None))
    return Work(
        backbone.spec, backbone, decoding, device, whole, MIXED.get(precision, whole or own), len(sampler.lanes), batch,
        dict(policies), frames, not getattr(rope, "constant", True), kv_codec,
    )  # fmt: skip


def budget_of(work: Work, free: Mapping[str, int | None]) -> Budget:
    """What the work needs against what is free."""
    return Budget(tuple(lines(work)), free)


def lines(work: Work) -> Iterable[Line]:
    """The lines of the budget."""
    spec, here = work.spec, work.device
    per_frame, videos = frame_bytes(spec, work.computing), f"{work.lanes} x {work.batch} x {spec.layers} layers"
    visible, raw = max((context(work, policy) for policy in work.policies.values()), key=sum)
    yield Line("weights of the network", size_of(work.backbone, work.weights), here, _name(work.weights or _own(work)))
    yield Line(
        "keys and values in view", work.rows * visible * per_frame, here,
        f"{videos} x {visible} frames, {_name(work.computing)}",
    )  # fmt: skip
    yield Line(
        "raw keys and values", work.rows * raw * raw_frame_bytes(spec, work.computing, work.kv_codec), here,
        f"{videos} x {raw} frames",
    )  # fmt: skip
    if text := getattr(work.backbone, "text_len", 0):
        size = work.rows * spec.layers * 2 * text * width_of(spec) * work.computing.itemsize
        yield Line("text keys and values", size, here, f"{videos} x {text} tokens")
    yield Line("a forward pass", forward_bytes(work), here, "estimate")
    yield from _decoding(work)


def _decoding(work: Work) -> Iterable[Line]:
    codec, where = work.decoding, work.decoding.device
    yield Line("weights of the codec", codec.weights, where, _name(codec.dtype))
    held = footprint(codec.codec, work.spec, codec.dtype, codec.tile)
    if held is None:
        yield Line("decoding", 0, where, f"{type(codec.codec).__name__} does not say")
        return
    yield Line("state of the codec", work.batch * held.state, where, f"{work.batch} videos" if work.batch > 1 else "")
    yield Line("decoding a block", work.batch * held.working, where, f"tiles of {codec.tile}" if codec.tile else "")


def context(work: Work, policy: CachePolicy) -> tuple[int, int]:
    """Frames of the buffers in view, and the most frames of which raw keys and values are kept at once."""
    block = work.spec.block
    with blamed("cache policy", policy, "telling how many frames it keeps"):
        return policy.visible(block) + block, _raw_frames(policy, block, work.frames, work.all_raw)


@lru_cache(maxsize=256)
def _raw_frames(policy: CachePolicy, block: int, frames: int, all_raw: bool) -> int:
    kept = policy.live if all_raw else policy.revisited
    commits = range(0, min(frames - block, STARTS * block), block)  # nothing reads a video's last block
    return max((len(kept(start, block)) + block for start in commits), default=0)


def frame_bytes(spec: ModelSpec, dtype: torch.dtype) -> int:
    """Bytes of the keys and values of one frame over all layers."""
    return 2 * spec.layers * spec.tokens * width_of(spec) * dtype.itemsize


def raw_frame_bytes(spec: ModelSpec, dtype: torch.dtype, kv_codec: KVCodec | None) -> int:
    """The same in the form in which the KV codec keeps them."""
    plain = frame_bytes(spec, dtype)
    if kv_codec is None or type(kv_codec) is Plain:
        return plain
    sample = torch.zeros(1, spec.tokens, spec.heads, spec.head_dim, dtype=dtype)  # a frame of one layer
    try:
        return spec.layers * sum(tensor.nbytes for tensor in tensors_in(kv_codec.encode(sample, sample)))
    except Exception:  # anyone's codec, here without the device it may need
        return plain


def forward_bytes(work: Work) -> int:
    """An estimate of a forward pass of one block, and what a commit pass sets aside for the memory."""
    spec, tokens = work.spec, work.batch * work.spec.block * work.spec.tokens
    widest = max((layer.out_features for layer in work.backbone.modules() if isinstance(layer, nn.Linear)), default=0)
    passing = tokens * (LIVE_WIDTHS * width_of(spec) + LIVE_WIDEST * widest) * work.computing.itemsize
    return passing + work.batch * spec.block * frame_bytes(spec, work.computing)


def width_of(spec: ModelSpec) -> int:
    """Channels of a token."""
    return spec.heads * spec.head_dim


def size_of(module: nn.Module, dtype: torch.dtype | None = None) -> int:
    """Bytes of parameters and buffers, floats in ``dtype`` where it is given."""
    tensors = (*module.parameters(), *module.buffers())
    return sum(
        each.numel() * (dtype if dtype and each.is_floating_point() else each.dtype).itemsize for each in tensors
    )


def elsewhere(work: Work, device: str) -> Work:
    """The same work with the codec on another device."""
    dtype = decoding_dtype(work.decoding.codec, device)
    return replace(work, decoding=replace(work.decoding, device=device, dtype=dtype))


def decoding_dtype(codec: VideoCodec, device: str) -> torch.dtype:
    """The dtype that a codec works in on a device."""
    chosen = getattr(codec, "number_format", None)
    if chosen is None:
        return next((weight.dtype for weight in codec.parameters()), torch.float32)
    return chosen_dtype(chosen, device)


def _place(codec: VideoCodec, device: str) -> tuple[str, torch.dtype]:
    fixed = getattr(codec, "fixed", None)
    where = device if fixed is None else str(fixed)
    return where, decoding_dtype(codec, where)


def _own(work: Work) -> torch.dtype:
    return next((weight.dtype for weight in work.backbone.parameters()), work.computing)


def _name(dtype: torch.dtype) -> str:
    return {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}.get(str(dtype)[6:], str(dtype)[6:])
