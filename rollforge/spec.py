"""Plain data that all components share: no tensors, no torch.

*frame* is a latent frame, *block* the frames generated together, *window* the frames of one attention call (the
current block included), *commit* the pass whose keys and values later blocks read, *horizon* the length that the model
was trained to generate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import chain, count, islice
from numbers import Real
from typing import TYPE_CHECKING, Literal, get_args

from rollforge.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

TIMESTEPS = 1000.0  # the timestep of pure noise
Prediction = Literal["flow", "clean", "noise", "velocity"]


class Phase(Enum):
    """Why the backbone runs. The sampler states it; it is never inferred from the noise level."""

    PREFILL = "prefill"  # given frames enter the memory
    DENOISE = "denoise"  # a prediction on noisy frames
    COMMIT = "commit"  # finished frames enter the memory
    RECACHE = "recache"  # committed frames are read again under a new prompt
    ESTIMATE = "estimate"  # frames that are not finished enter the memory, until the next block is

    @property
    def writes(self) -> bool:
        """Whether the keys and values of this pass are kept."""
        return self is not Phase.DENOISE

    @property
    def final(self) -> bool:
        """Whether this pass completes a block: the policy is notified, and later blocks may read it."""
        return self in (Phase.PREFILL, Phase.COMMIT)


@dataclass(frozen=True)
class ModelSpec:
    """What a backbone states about itself.

    Sizes are of the latent grid; ``patch`` is height by width; ``horizon`` and ``window`` count latent frames;
    ``fps`` counts latent frames per second. Raises ``UserError`` for numbers that no model can have.

    Args:
        first_block: frames of the first block of a video. Default: ``block``.
        kv_heads: heads of the keys and values, of every layer or of each, where queries share them. Default: ``heads``.
        predicts: what the network predicts; ``rollforge.prediction`` has the formulas.
        levels: timestep that the network gets for pure noise.
        largest_level: the largest noise level that the network knows, from 0 to 1000. A pass that begins above it, as
            samplers do at pure noise, gets this level.
    """

    channels: int
    height: int
    width: int
    patch: tuple[int, int]
    layers: int
    heads: int
    head_dim: int
    block: int
    window: int
    horizon: int
    fps: float
    first_block: int | None = None
    kv_heads: int | tuple[int, ...] | None = None
    predicts: Prediction = "flow"
    levels: float = TIMESTEPS
    largest_level: float = TIMESTEPS

    def __post_init__(self) -> None:
        counts = ("channels", "height", "width", "layers", "heads", "head_dim", "block", "window", "horizon")
        for name in counts:
            if getattr(self, name) < 1:
                raise UserError(f"The backbone's {name} is {getattr(self, name)}; it must be 1 or more.")
        if self.first_block is not None and self.first_block < 1:
            raise UserError(f"The backbone's first_block is {self.first_block}; it must be 1 or more.")
        for name in ("window", "horizon"):
            rest = getattr(self, name) - self.first
            if rest % self.block and getattr(self, name) % self.block:
                first = f", after a first block of {self.first}" if self.first != self.block else ""
                raise UserError(
                    f"The backbone's {name} is {getattr(self, name)} latent frames; it must be a multiple of "
                    f"its block, {self.block}{first}."
                )
        if min(self.patch) < 1 or self.height % self.patch[0] or self.width % self.patch[1]:
            size, patch = f"{self.height}x{self.width}", f"{self.patch[0]}x{self.patch[1]}"
            raise UserError(f"The backbone's latent size {size} cannot be cut into patches of {patch}.")
        if not 0 < self.fps < float("inf"):
            raise UserError(f"The backbone's fps is {self.fps}; it must be above 0.")
        if self.predicts not in get_args(Prediction):
            kinds = ", ".join(get_args(Prediction))
            raise UserError(f"The backbone predicts {self.predicts!r}; expected one of {kinds}.")
        if not 0 < self.levels < float("inf"):
            raise UserError(f"The backbone's levels is {self.levels}; it must be above 0.")
        if not 0 < self.largest_level <= TIMESTEPS:
            raise UserError(f"The backbone's largest_level is {self.largest_level}; it must be above 0, at most 1000.")
        for heads in self.kv_heads if isinstance(self.kv_heads, tuple) else (self.kv_heads or self.heads,):
            if heads < 1 or self.heads % heads:
                raise UserError(f"The backbone's kv_heads is {heads}; it must divide its {self.heads} heads.")
        if isinstance(self.kv_heads, tuple) and len(self.kv_heads) != self.layers:
            raise UserError(f"The backbone has kv_heads for {len(self.kv_heads)} layers; it has {self.layers} layers.")

    @property
    def first(self) -> int:
        """Frames of the first block of a video."""
        return self.first_block or self.block

    def size_of_block(self, index: int) -> int:
        """Frames of block number ``index`` of a video that begins with whole blocks."""
        return self.block if index else self.first

    def blocks(self, frames: int) -> Iterator[range]:
        """The blocks of a video of ``frames`` latent frames, rounded up to whole ones."""
        start = index = 0
        while start < frames:
            yield range(start, start + self.size_of_block(index))
            start, index = start + self.size_of_block(index), index + 1

    def block_numbers(self, frames: int) -> list[int]:
        """The block that each of the first ``frames`` latent frames belongs to."""
        return [index for index, block in enumerate(self.blocks(frames)) for _ in block][:frames]

    def whole(self, frames: int) -> int:
        """The most frames that are whole blocks, of ``frames`` or fewer."""
        return max(0, self.first + (frames - self.first) // self.block * self.block) if frames >= self.first else 0

    def kv_shape(self, layer: int) -> tuple[int, int]:
        """Heads and channels of the keys and values of one layer."""
        heads = self.kv_heads[layer] if isinstance(self.kv_heads, tuple) else self.kv_heads or self.heads
        return heads, self.head_dim

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens of one frame, height by width."""
        return self.height // self.patch[0], self.width // self.patch[1]

    @property
    def tokens(self) -> int:
        """Tokens of one frame."""
        return self.grid[0] * self.grid[1]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one latent frame."""
        return self.channels, self.height, self.width


@dataclass(frozen=True)
class Step:
    """One forward pass, as a policy is asked about it.

    ``block`` is the model's block size, the unit in which policies count; ``count`` the frames of this very pass, where
    they differ from it (joint denoising of several blocks, a single given frame). ``keeps`` marks a denoising pass
    whose keys and values enter the memory, in case that the sampler commits the block with a ``Keep``.
    """

    index: int
    start: int
    block: int
    phase: Phase = Phase.DENOISE
    level: int = 0
    count: int | None = None
    keeps: bool = False

    @property
    def writes(self) -> bool:
        """Whether the keys and values of this pass are kept."""
        return self.phase.writes or self.keeps

    @classmethod
    def of(cls, index: int, block: int, phase: Phase = Phase.DENOISE, level: int = 0) -> Step:
        """The step of block number ``index`` where every block holds ``block`` frames."""
        return cls(index, index * block, block, phase, level)

    @property
    def frames(self) -> range:
        """The frames of this pass."""
        return range(self.start, self.start + (self.block if self.count is None else self.count))


@dataclass(frozen=True)
class Event:
    """Something that happens before the block at ``step`` is generated.

    ``coming`` are the first frames of the prompts that are still to come, so that a policy can prepare for them.
    """

    step: Step
    coming: tuple[int, ...] = ()


@dataclass(frozen=True)
class Start(Event):
    """The first block is generated next, after the initial ones."""


@dataclass(frozen=True)
class PromptSwitch(Event):
    """From ``step`` on another prompt is in force."""


@dataclass(frozen=True)
class Cut(Event):
    """A new shot starts: its content need not continue the previous one."""


@dataclass(frozen=True)
class Seek(Event):
    """The video continues from what it showed at ``frame``."""

    frame: int = 0


@dataclass(frozen=True)
class Reset(Event):
    """Earlier blocks no longer matter."""


EVENTS: dict[str, type[Event]] = {event.__name__: event for event in (Cut, Seek, Reset)}
"""Events that a caller may announce, by name. The rollout itself announces the others."""


@dataclass(frozen=True)
class Reencode:
    """A policy's request: the latent of a finished ``frame`` is replaced by its pixel frame, encoded as a first frame.

    Initial frames have no pixel frames at their own commit; they have them when ``Start`` is announced.
    """

    frame: int


@dataclass(frozen=True)
class Seen:
    """The observations of a policy; None for fields that it does not observe.

    Args:
        q: queries before rotation, ``[B, F, heads, head_dim]``, means over the tokens of a frame; whole,
            ``[B, F, tokens, ...]``.
        k: keys before rotation, in the same form.
        q_rotated: queries after rotation.
        k_rotated: keys after rotation.
        text_k: keys of the text, ``[B, heads, head_dim]``; whole, ``[B, L, heads, head_dim]``.
        latents: a finished block, ``[B, F, C]``, means over its tokens; whole, ``[B, F, C, H, W]``.
        pixels: its pixel frames in 0..1, ``[B, T, 3]``; whole, ``[B, T, H, W, 3]``.
    """

    q: Tensor | None = None
    k: Tensor | None = None
    q_rotated: Tensor | None = None
    k_rotated: Tensor | None = None
    text_k: Tensor | None = None
    latents: Tensor | None = None
    pixels: Tensor | None = None


@dataclass(frozen=True)
class Segment:
    """A run of frames: content ``content, content + stride, ...`` read at time indices ``time, time + 1, ...``.

    Content below 0 is a virtual frame. All but the first four say how the run is read; left out, every layer and head
    reads all of it in one softmax with the frames of the pass.

    Args:
        content: the first frame.
        time: its time index.
        length: frames.
        stride: from one content frame to the next.
        bias: natural logarithm, added to the logits of the run's keys.
        layers: the only layers that read it; or two shares of the depth, such as ``(2 / 3, 1.0)`` for the last third
            of the layers of any network.
        heads: the only query heads that read it.
        tokens: the only tokens of each frame that are read; or an index tensor ``[layers, B, n]``, a choice for each
            layer and sample.
        branch: runs of one branch share a softmax; a part of kind ``combine`` joins the branches.
    """

    content: int
    time: int
    length: int
    stride: int = 1
    bias: float = 0.0
    layers: range | tuple[float, float] | None = None
    heads: tuple[int, ...] | None = None
    tokens: Sequence[int] | Tensor | None = None
    branch: int = 0

    def entries(self) -> Iterator[tuple[int, int]]:
        """The run as ``(content frame, time index)`` pairs."""
        contents = islice(count(self.content, self.stride), self.length)
        return zip(contents, count(self.time), strict=False)

    @property
    def plain(self) -> bool:
        """Whether it is read as it is, by all heads."""
        return not self.bias and self.heads is None and self.tokens is None


@dataclass(frozen=True)
class ReadPlan:
    """What a block attends to: runs of committed frames at time indices, and the time index of its own first frame.

    The frames of the pass attend to each other; with ``causal`` each block of them attends to itself and the blocks
    before it.
    """

    segments: tuple[Segment, ...]
    query: int
    causal: bool = False

    @classmethod
    def of(cls, entries: Iterable[tuple[int, int]], query: int) -> ReadPlan:
        """A plan from single ``(content frame, time index)`` pairs."""
        return cls(tuple(Segment(content, time, 1) for content, time in entries), query)

    def of_depth(self, layers: int) -> ReadPlan:
        """The same plan for a network of so many layers: shares of the depth become the layers that they reach into."""
        if not any(isinstance(run.layers, tuple) for run in self.segments):
            return self
        return replace(self, segments=tuple(_of_depth(run, layers) for run in self.segments))

    @classmethod
    def contiguous(cls, runs: Iterable[range], query: int | None = None) -> ReadPlan:
        """Runs of frames at time indices 0, 1, 2, ..., and the block right after them, or at ``query``."""
        segments, time = [], 0
        for run in runs:
            if len(run):
                segments.append(Segment(run.start, time, len(run), run.step))
            time += len(run)
        return cls(tuple(segments), time if query is None else query)

    def entries(self) -> tuple[tuple[int, int], ...]:
        """Every ``(content frame, time index)`` pair, in order."""
        return tuple(chain.from_iterable(segment.entries() for segment in self.segments))


def _of_depth(run: Segment, layers: int) -> Segment:
    if not isinstance(run.layers, tuple):
        return run
    first, last = (round(share * layers, 6) for share in run.layers)  # a third of 30 layers are 10
    return replace(run, layers=range(math.floor(first), math.ceil(last)))


@dataclass(frozen=True)
class Virtual:
    """A frame that is made from the keys and values of others, and then stored and read like any frame.

    Keys are taken without rotation. All virtual frames of a block are made from what was there before any of them, so
    that a frame may be made from its own earlier self.

    Args:
        frame: its number, below 0.
        of: the frames that it is made from.
        weights: one for each of them; or a tensor ``[B, len(of)]`` or ``[layers, B, len(of)]``, weights for each sample
            and layer. Default: their mean.
        pool: ``tokens`` makes one key and one value for each head, the same at every place.
        make: in place of weights: a function of the layer, the keys and the values, ``[B, len(of), tokens, heads,
            head_dim]`` each in their number format, and ``of``, to keys and values ``[B, tokens, heads, head_dim]``.
        tokens: in place of weights: the frame consists of these tokens of the sources, laid end to end, in each layer
            and sample, ``[layers, B, tokens of a frame]``. Each token keeps its place within a frame.
        count: how many frames ``make`` makes at once, ``frame, frame + 1, ...``. Where it is given, also as 1, the
            function returns ``[B, count, tokens, heads, head_dim]``. A choice of frames for each layer and sample reads
            its sources once.
        rotated: whether its keys keep the rotation that they were made with, and so are read at the times of their
            frames whatever the plan says.

    Raises:
        ValueError: a number of 0 or more, no frames, or weights that do not fit them.
    """

    frame: int
    of: tuple[int, ...]
    weights: Sequence[float] | Tensor | None = None
    pool: Literal["tokens"] | None = None
    make: Callable[[int, Tensor, Tensor, tuple[int, ...]], tuple[Tensor, Tensor]] | None = None
    rotated: bool = False
    tokens: Tensor | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        if self.frame >= 0 or not self.of:
            raise ValueError(
                f"The virtual frame {self.frame} is made from {len(self.of)} frames; it needs a number below 0 and one "
                "frame or more."
            )
        ways = [name for name in ("weights", "make", "tokens") if getattr(self, name) is not None]
        if len(ways) > 1 or (self.tokens is not None and self.pool):
            given = " and ".join([*ways, *(["pool"] if self.pool else [])])
            raise ValueError(f"The virtual frame {self.frame} is made by {given}; give one of them.")
        if self.count is not None and (self.make is None or not 1 <= self.count <= -self.frame):
            raise ValueError(
                f"The virtual frame {self.frame} has count {self.count}; expected none, or with a function from 1 to "
                f"{-self.frame}, so that all numbers are below 0."
            )
        if self.weights is None:
            return
        shape = tuple(getattr(self.weights, "shape", (len(self.weights),)))
        numbers = hasattr(self.weights, "shape") or all(isinstance(weight, Real) for weight in self.weights)
        if not numbers or shape[-1] != len(self.of) or len(shape) > 3:
            raise ValueError(
                f"The virtual frame {self.frame} is made from {len(self.of)} frames with weights of shape "
                f"{list(shape)}; expected one weight for each frame, alone or as [B, n] or [layers, B, n]."
            )

    @property
    def frames(self) -> range:
        """The numbers of all frames that are made."""
        return range(self.frame, self.frame + (self.count or 1))


@dataclass(frozen=True)
class Capacity:
    """What a cache policy keeps at most, in frames: of all, virtual ones included, and of those that may move."""

    frames: int
    moves: int
