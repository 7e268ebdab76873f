"""The components of a pipeline, and what follows from them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor

from rollforge.backbones.base import Backbone, Condition, Conditioner, VideoCodec
from rollforge.backbones.weights import RANDOM
from rollforge.borders import WrongAnswer, check_size, check_tensor, whole
from rollforge.budget import MemoryInput, work_of
from rollforge.data.opening import Frames, opening_frames
from rollforge.data.requests import Request
from rollforge.errors import UserError, attribute_errors
from rollforge.finish.base import Finish, finished_size
from rollforge.memory import Attention, Combine, IdentityKVCodec, KVCodec, MakeMemory, Positions, RolloutMemory, Sdpa
from rollforge.memory.routing import Routing
from rollforge.noise import IndependentNoise, NoisePrior
from rollforge.parallel import ContextGroup, divide
from rollforge.policies.base import CachePolicy
from rollforge.precision import MIXED, TRUE
from rollforge.prediction import is_compiled
from rollforge.rollout import Rollout
from rollforge.rollout.block_check import BlockCheck
from rollforge.rollout.borders import check_branches, check_condition
from rollforge.samplers.base import Sampler
from rollforge.video import PICTURES

log = logging.getLogger(__name__)

Compile = bool | Literal["default", "max-autotune"]
GRAPHS = 64
"""The most graphs of a network: one or two for each number of frames, while the window fills."""


@dataclass(kw_only=True, eq=False)
class Components:
    """A network with all components that it needs to generate videos; plain torch.

    Args:
        backbone: the network.
        conditioner: encodes prompts to text features.
        codec: encodes pixels to latents and decodes them.
        policy: which committed frames a block attends to, and at which time indices.
        sampler: how a block is denoised.
        noise: noise prior of a block. Default: independent noise for every frame.
        positions: how queries and keys are rotated by their time indices. Default: those of the backbone.
        kv_codec: how keys and values are cached. Default: unchanged.
        block_check: what happens to a block with NaN or too large values. Default: the rollout stops.
        negative_prompt: the prompt that guidance leads away from. Default: the empty one.
        memory: what makes the memory of a rollout, once for each guidance branch. Default: ``RolloutMemory``.
        combine: what joins the branches of a plan that has several.
        attention: the kernel that memories attend with. Default: torch's, as it chooses.
        compile: whether rollouts run the network under ``torch.compile``, and in which of its modes; true is
            ``default``. The first blocks take minutes longer, later starts less (torch keeps what it compiled).
        finish: what decoded frames go through before they are shown and written. Default: nothing.
        measure_finished: whether metrics see finished frames. Default: they see the frames as they were decoded.
        context_parallel: processes that make one video together, each with a share of the tokens and heads. They are
            the ``group``, which is set when the processes are there.
        fuse_commit: whether a block is committed in one pass with the first step of the next block, which is one pass
            less. The policy and the other components must allow it.
    """

    backbone: Backbone
    conditioner: Conditioner
    codec: VideoCodec
    policy: CachePolicy
    sampler: Sampler
    noise: NoisePrior = field(default_factory=IndependentNoise)
    positions: Positions = None  # type: ignore[assignment] # which is replaced by those of the backbone
    kv_codec: KVCodec = field(default_factory=IdentityKVCodec)
    block_check: BlockCheck = field(default_factory=BlockCheck)
    negative_prompt: str = ""
    memory: MakeMemory = RolloutMemory
    combine: Combine | None = None
    attention: Attention = field(default_factory=Sdpa)
    compile: Compile = False
    finish: Finish | None = None
    measure_finished: bool = False
    context_parallel: int | None = None
    fuse_commit: bool = False
    group: ContextGroup | None = field(default=None, init=False)
    precision: str = field(default="32-true", init=False)  # one of the Trainer's, as ``to`` sets it

    def __post_init__(self) -> None:
        self.positions = self.positions or self.backbone.positions
        if self.divided:
            divide(self.backbone.spec, self.together)

    @property
    def together(self) -> int:
        """Processes that make one video."""
        return self.context_parallel or 1

    @property
    def divided(self) -> bool:
        """Whether several processes make one video."""
        return self.together > 1

    def to(self, device: str | torch.device | None = None, precision: str = "32-true") -> Self:
        """Moves the networks. ``precision`` is one of the Trainer's; true ones change the weights of the backbone."""
        self.backbone.to(device, TRUE.get(precision))
        self.codec.to(device)
        self.conditioner.to(device)
        if self.finish is not None:
            self.finish.to(device)
        self.precision = precision
        return self

    def eval(self) -> Self:
        """Prepares the networks for rollouts: evaluation mode, and no gradients."""
        networks = (self.backbone, self.codec, self.conditioner)
        for network in networks if self.finish is None else (*networks, self.finish):
            network.eval().requires_grad_(False)
        return self

    def computing(self) -> AbstractContextManager[object]:
        """The context in which the networks run, for mixed precision."""
        half = MIXED.get(self.precision)
        return nullcontext() if half is None else torch.autocast(self.device.type, half)

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.backbone.parameters()).device

    @property
    def routing(self) -> Routing | None:
        """How query tokens choose among frames of their history, where the memory lets them."""
        spec = self.backbone.spec
        return self.memory(spec, 0, self.positions, self.kv_codec, self.combine).routing

    @property
    def fps(self) -> float:
        """Pixel frames per second."""
        return self.backbone.spec.fps * self.pixel_frames_per_latent

    @property
    def pixel_frames_per_latent(self) -> int:
        """Pixel frames of a latent frame that is not the first."""
        return self.pixel_frames(2) - self.pixel_frames(1)

    def pixel_frames(self, latent_frames: int) -> int:
        """Pixel frames that so many latent frames make."""
        with attribute_errors("codec", self.codec, "reporting how many frames it makes"):
            frames = self.codec.pixel_frames(latent_frames)
        if not whole(frames) or frames < 0:
            raise WrongAnswer("codec", self.codec, frames, f"from pixel_frames({latent_frames})", "a whole number")
        return int(frames)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels of what the codec decodes and encodes."""
        with attribute_errors("codec", self.codec, "reporting its pixel size"):
            size = self.codec.pixel_size(self.backbone.spec.width, self.backbone.spec.height)
        return check_size("codec", self.codec, size)

    @property
    def guided(self) -> bool:
        """Whether the sampler needs the features of a negative prompt."""
        check_branches(self.sampler)
        return "negative" in self.sampler.guidance_branches

    @property
    def finished_size(self) -> tuple[int, int]:
        """Width and height of the video that is shown and written."""
        if self.finish is None:
            return self.size
        return finished_size(self.finish, self.size)

    @property
    def horizon_seconds(self) -> float:
        """Seconds of video that the network was trained on."""
        return self.codec.pixel_frames(self.backbone.spec.horizon) / self.fps

    @torch.no_grad()
    def condition(self, prompts: Sequence[str]) -> Condition:
        """Text features of prompts."""
        with attribute_errors("conditioner", self.conditioner, "reading prompts"):
            features: Condition = self.conditioner(prompts)
        check_condition("conditioner", self.conditioner, features, len(prompts))
        if not features.embeds.isfinite().all():
            raise WrongAnswer(
                "conditioner", self.conditioner, "features that are not finite", "for the prompts", "numbers"
            )
        return features.to(self.device)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Pixel frames uint8 ``[B, T, H, W, 3]`` to latents ``[B, F, C, h, w]``, in the codec's own precision."""
        with (
            torch.autocast(self.device.type, enabled=False),
            attribute_errors("codec", self.codec, "encoding frames"),
        ):
            latents = self.codec.encode(video.permute(0, 1, 4, 2, 3).float() / 255)
        when = f"for {video.shape[1]} pixel frames"
        latents = check_tensor("codec", self.codec, latents, when, (len(video), None, *self.backbone.spec.latent_shape))
        if not self.pixel_frames(latents.shape[1]) <= video.shape[1] < self.pixel_frames(latents.shape[1] + 1):
            raise WrongAnswer("codec", self.codec, latents, when, "as many latent frames as pixel_frames says")
        return latents

    def given(self, requests: Sequence[Request]) -> Tensor | None:
        """Latents ``[B, F, C, H, W]`` of the openings, if there are any."""
        openings = [self._opening(request, request.opening) for request in requests if request.opening]
        if len({latents.shape[1] for latents in openings}) > 1 or len(openings) not in (0, len(requests)):
            raise UserError("Requests that are rolled together need openings of one length; generate them one by one.")
        return torch.cat(openings) if openings else None

    def opening_frames(self, request: Request, path: Path) -> Frames:
        """The most pixel frames of an opening that encode to complete latent frames, uint8 ``[T, H, W, 3]``."""
        count = self.codec.pixel_frames
        most = self._longest_opening(request)
        video = opening_frames(path, self.size, self.fps, count(most))
        whole = max(frames for frames in range(1, most + 1) if count(frames) <= len(video))
        return video[len(video) - count(whole) :]

    def check_weights(self) -> None:
        """Raises ``UserError`` for a component with random weights that were not requested."""
        for name, part in (("backbone", self.backbone), ("codec", self.codec), ("finish", self.finish)):
            if part is None:
                continue
            kind = type(part).__name__
            if getattr(part, "weights", RANDOM) is None:
                own = "weights" in signature(type(part)).parameters
                place = f"model.{name}.init_args{'.weights' if own else ''}"
                raise UserError(
                    f"The {name} {kind} has random weights; name its checkpoint in {place}, or write `{RANDOM}` there "
                    "to generate noise on purpose."
                )
            if not hasattr(part, "weights") and any(True for _ in part.parameters()):
                log.warning("The %s %s does not say where its weights are from; they may be random.", name, kind)

    def check_prompts(self, requests: Sequence[Request]) -> None:
        """Raises ``UserError`` for a prompt that the conditioner cannot express."""
        with attribute_errors("conditioner", self.conditioner, "checking prompts"):
            self.conditioner.check([prompt for request in requests for prompt in request.prompts.values()])

    def rollout(self, policy: CachePolicy | None = None) -> Rollout:
        """The rollout loop of these components, under another ``policy`` if given.

        With ``compile`` the network is compiled in place, the first time; training then runs what was compiled too.
        """
        if self.compile and not is_compiled(self.backbone):
            from torch._dynamo import config  # torch stops at 8 graphs, and runs what is left without

            config.recompile_limit = max(config.recompile_limit, GRAPHS)
            self.backbone.compile(mode="default" if self.compile is True else self.compile)
        return Rollout(
            self.backbone, policy or self.policy, self.sampler, self.noise, self.positions, self.kv_codec,
            self.block_check, self.memory, self.combine, attention=self.attention, group=self.group,
            fuse_commit=self.fuse_commit,
        )  # fmt: skip

    def memory_input(
        self,
        requests: Sequence[Request],
        batch: int = 1,
        *,
        device: str | None = None,
        precision: str | None = None,
        policies: Mapping[str, CachePolicy] | None = None,
    ) -> MemoryInput:
        """The properties that determine the memory of a rollout of ``batch`` requests.

        Args:
            requests: the videos.
            batch: videos in a batch.
            device: of the network. Default: where it is.
            precision: the Trainer's. Default: as ``to`` set it.
            policies: cache policies, used one after the other, by their config key. Default: the pipeline's own.
        """
        prompts = [prompt for request in requests for prompt in request.prompts.values()]
        guided = [self.negative_prompt] if self.guided else []
        return work_of(
            self.backbone, self.codec, self.sampler, policies or {"model.policy": self.policy},
            device=device or str(self.device), frames=max(request.frames for request in requests),
            batch=min(batch, len(requests)), precision=precision or self.precision, positions=self.positions,
            kv_codec=self.kv_codec,
            switches=sorted({start for request in requests for start in request.prompts if start}),
            conditioner=self.conditioner, prompts=list(dict.fromkeys([*prompts, *guided])),
            opening=max(self._opening_length(request) for request in requests), finish=self.finish,
            processes=self.together, fuse_commit=self.fuse_commit,
        )  # fmt: skip

    def _opening(self, request: Request, path: Path) -> Tensor:
        latents = self.encode(torch.from_numpy(self.opening_frames(request, path)).to(self.device)[None])
        if not latents.isfinite().all():
            raise WrongAnswer("codec", self.codec, "latents that are not finite", "for an opening", "numbers")
        return latents

    def _opening_length(self, request: Request) -> int:
        """Latent frames of an opening, at most; 0 where there is none."""
        if request.opening is None:
            return 0
        if request.opening.suffix.lower() in PICTURES:
            return 1
        return min(request.frames, self._longest_opening(request))

    def _longest_opening(self, request: Request) -> int:
        """Latent frames that are taken of an opening video, at most."""
        spec = self.backbone.spec
        return request.opening_frames or max(1, spec.horizon - spec.block)
