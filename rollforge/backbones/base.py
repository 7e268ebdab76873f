"""The components of a model family: a network, a conditioner and a video codec."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from rollforge.errors import UserError
from rollforge.memory.base import LevelFeatures, Memory, TextKeys
from rollforge.positions import NoPositions, Positions
from rollforge.ranges import Checked
from rollforge.spec import ModelSpec
from rollforge.state import State


@dataclass(frozen=True)
class Condition:
    """What a video is generated from: text features, and further inputs for each frame.

    Args:
        id: names the features: equal ids mean equal ``embeds``, and caches of them are keyed by it.
        embeds: text features ``[B, L, D]``, or class ids or others with a row for each sample.
        extra: named tensors ``[B, frames, ...]`` of the whole video, such as actions, classes or poses; one frame
            applies to all. The network receives those of the frames of a pass.
    """

    id: str
    embeds: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device | str | torch.dtype | None = None, dtype: torch.dtype | None = None) -> Condition:
        """The same condition on another device. Only floats change their dtype; class ids stay integers."""
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        extra = {name: _to(value, device, dtype) for name, value in self.extra.items()}
        return replace(self, embeds=_to(self.embeds, device, dtype), extra=extra)

    def of_frames(self, frames: range) -> Condition:
        """The same condition with ``extra`` of these frames alone."""
        if not self.extra:
            return self
        extra = {
            name: value.expand(-1, len(frames), *value.shape[2:])
            if value.shape[1] == 1
            else value[:, frames.start : frames.stop]
            for name, value in self.extra.items()
        }
        return replace(self, extra=extra)


def _to(value: Tensor, device: torch.device | str | None, dtype: torch.dtype | None) -> Tensor:
    return value.to(device, dtype if value.is_floating_point() else None)


class Backbone(Checked, nn.Module, ABC):
    """Predicts the flow ``noise - clean`` of noisy latents, or what its ``spec.predicts`` says."""

    spec: ModelSpec
    weights: str | None
    """Source of the weights, set by a network with parameters: a file or hub name, or ``random`` for random weights.

    ``None`` marks random weights that were not requested: ``predict`` and ``test`` refuse them.
    """
    positions: Positions = NoPositions()
    """Positions that the network was trained with: ``memory.attend`` rotates queries and keys by them.

    A config may name others. Default: none. Networks that add positions of their own use ``FixedPositions()``.
    """
    divides_tokens: bool = False
    """Whether ``forward`` calls ``memory.share`` before its layers and ``memory.gather`` after them, and treats tokens
    alike in between but for the frame that they belong to: several processes can then make one video.
    """
    hides: tuple[str, ...] = ()
    """Fields of ``Seen`` that no layer provides: ``text_k`` if ``memory.cross`` is never called, ``q`` and the like if
    ``memory.attend`` is not. A policy that observes them is refused.
    """

    @abstractmethod
    def forward(self, latents: Tensor, timesteps: Tensor, condition: Condition, memory: Memory) -> Tensor:
        """Latents ``[B, F, C, H, W]`` at timesteps ``[B, F]`` (0 clean, 1000 noise) to a flow of the same shape.

        A network that takes a fifth argument, ``extra``, receives what a sampler gave to its pass.
        """

    def text_keys(self, condition: Condition) -> TextKeys:
        """Keys and values of a text for each layer, which ``memory.text`` returns. Default: none.

        Called when the text changes, before the pass and outside of the compiled graph, for compiled networks only;
        other networks compute them inside ``memory.cross``.
        """
        return {}

    def layer_modules(self) -> Sequence[nn.Module]:
        """The modules of the layers, in order; each returns hidden tokens ``[B, F * tokens, width]``.

        Objectives that read features of a network, such as ``GAN``, call it. Default: raises ``UserError``.
        """
        raise UserError(
            f"The backbone {type(self).__name__} shows no hidden tokens of its layers; choose one that has "
            "layer_modules, such as Wan."
        )

    def level_features(self, timestep: Tensor) -> LevelFeatures:
        """What the network computes from a noise level ``[1]`` alone, for each layer. Default: nothing.

        A rollout asks once for each level of a sampler, outside of what is compiled and without gradients, and
        ``memory.level`` returns it in passes whose frames all have that level. With ``fuse_commit`` it also asks for
        the levels of the frames of two blocks, ``[F]``, and ``memory.level`` returns that in passes of these.
        """
        return {}

    def join(self, conditions: Sequence[Condition]) -> Condition | None:
        """One condition with the rows of several, for guidance branches that run as one batch. Default: None, so that
        they run one after another.

        A network may join them if no row of a batch changes another, and if it has no state of its own and calls no
        ``memory.carry``. ``memory.attend`` and ``memory.cross`` then receive the rows of all branches.
        """
        return None

    def rollout_state(self) -> State:
        """What the network itself carries from pass to pass of a rollout. Default: nothing.

        Prefer a memory for it. A network that changes attributes of its own returns them here, so that interleaved
        rollouts do not disturb each other and snapshots save them.
        """
        return {}

    def load_rollout_state(self, state: State) -> None:
        """Restores what ``rollout_state`` returned; ``{}`` starts a rollout. Called before each pass."""

    @classmethod
    def sizes_in_files(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments that are read from the files named in ``arguments`` where they are not given. Default: none.

        ``doctor`` builds the network without its weights, and gives it these. Reads no weights. Raises ``UserError``
        for files that cannot be opened.
        """
        return {}


class Conditioner(Checked, nn.Module, ABC):
    """Turns prompts into text features."""

    examples: Sequence[str] = ("a red ball over snow at day", "a blue box over grass at night")
    """Two prompts that it can express, unlike each other. Only the checks of the kit read them."""

    def check(self, prompts: Sequence[str]) -> None:
        """Raises ``UserError`` for a prompt it cannot express, without doing the work."""

    def encoder_memory(self, prompts: Sequence[str], cuda: bool) -> Mapping[str, int]:
        """Bytes on each device that are in use while these prompts are encoded, and are free again afterwards.

        What the module itself holds does not count. ``cuda`` says whether the model runs on a CUDA card, which need not
        be in this machine. Empty, unless a conditioner loads an encoder.
        """
        return {}

    @abstractmethod
    def forward(self, prompts: Sequence[str]) -> Condition:
        """One row of features for each prompt."""


class DecodeStream(ABC):
    """One video being decoded, block by block. Holds the codec's state, so several can run at once."""

    @abstractmethod
    def __call__(self, latents: Tensor) -> Tensor:
        """The next latents ``[B, F, C, H, W]`` to the pixel frames they complete, ``[B, T, 3, H, W]`` in 0..1.

        Runs without gradients, so that no block keeps the graph of the blocks before it.
        """

    @abstractmethod
    def state_dict(self) -> State:
        """What is carried over to the next latents; empty where nothing is."""

    @abstractmethod
    def load_state_dict(self, state: State) -> None:
        """Restores, on a new stream, what ``state_dict`` returned."""


class VideoCodec(Checked, nn.Module, ABC):
    """Pixels to latents and back.

    What else the core reads of a codec, where it has it: ``tile`` and ``overlap``, latent cells of a tile and of its
    seam when it decodes in tiles; ``fixed``, the device that it stays on; ``number_format``, its dtype by name;
    ``own_stream``, whether a rollout decodes in a thread while it generates the next block; ``loss(video)``, which
    ``Reconstruction`` trains.
    """

    weights: str | None
    """Source of the weights, set by a codec with parameters: a file or hub name, or ``random`` for random weights.

    ``None`` marks random weights that were not requested: ``predict`` and ``test`` refuse them.
    """

    takes_sizes = False
    """Whether it can be trained on pixel frames of other sizes too, as convolutions can (``model.multigrid``)."""

    @abstractmethod
    def encode(self, video: Tensor) -> Tensor:
        """Pixel frames ``[B, T, 3, H, W]`` in 0..1 to normalised latents ``[B, F, C, h, w]``, without gradients."""

    @abstractmethod
    def stream(self) -> DecodeStream:
        """A new video to decode."""

    @abstractmethod
    def pixel_frames(self, latent_frames: int) -> int:
        """How many pixel frames the first ``latent_frames`` latents decode to."""

    @abstractmethod
    def pixel_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height in pixels of a latent grid."""

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """A whole video at once: ``[B, F, C, h, w]`` to ``[B, T, 3, H, W]`` in 0..1."""
        return self.stream()(latents)
