"""Training the decoder of a codec against a discriminator of patches, for crisp frames.

Sources: the patch discriminator of pix2pix (arXiv 1611.07004), its feature matching from pix2pixHD (arXiv 1711.11585)
and the hinge loss; the decoders of latent diffusion models are trained alike. The widths are ours.

==============  =======================================================================================
number          value
==============  =======================================================================================
decoder         ``distance + weight (feature matching - mean D(decoded))``
distance        ``distance(decoded, frames)`` of the codec
critic          ``mean relu(1 - D(true)) + mean relu(1 + D(decoded))``
features        mean absolute difference of the hidden layers of the critic, summed over its layers
steps           one of the decoder, one of the critic, in turns
==============  =======================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, leaky_relu, relu
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rollforge.errors import UserError
from rollforge.objectives.base import Clips, Objective
from rollforge.pipeline import Pipeline
from rollforge.ranges import NonNegative, Positive, Range

GROUPS = 8


@runtime_checkable
class Decodes(Protocol):
    """What a codec must have for its decoder to be trained alone."""

    def decoded(self, video: Tensor) -> Tensor:
        """Frames ``[B, T, 3, H, W]`` in 0..1 encoded without gradients, and decoded with them; not clamped."""

    def distance(self, decoded: Tensor, video: Tensor) -> dict[str, Tensor]:
        """Named scalars, ``loss`` among them, between two such videos."""


class PatchDiscriminator(nn.Module):
    """One logit for each patch of a frame; a patch is 22 pixels wide and high.

    Args:
        width: channels after the first layer; the others have twice as many.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(3, width, 4, stride=2, padding=1),
                nn.Sequential(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1), nn.GroupNorm(GROUPS, 2 * width)),
                nn.Sequential(nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.GroupNorm(GROUPS, 2 * width)),
            ]
        )
        self.logit = nn.Conv2d(2 * width, 1, 1)

    def forward(self, video: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits and hidden layers of frames ``[B, T, 3, H, W]`` in 0..1."""
        hidden = [video.flatten(0, 1) * 2 - 1]
        for layer in self.layers:
            hidden.append(leaky_relu(layer(hidden[-1]), 0.2))
        return self.logit(hidden[-1]), hidden[1:]


class AdversarialReconstruction(Objective):
    """Trains the decoder of the codec alone: its encoder, and with it every latent, stays as it is.

    Args:
        weight: of the discriminator and of its features, next to the distance that the codec defines.
        width: channels of the discriminator.
        critic_optimizer: the discriminator's optimizer.
        critic_scheduler: its learning-rate schedule, stepped with each step of the discriminator.
        critic_clip: the largest norm of its gradients.
    """

    trains = "codec"

    def __init__(
        self,
        weight: NonNegative = 0.05,
        width: Annotated[int, Range(GROUPS, 1024, step=GROUPS)] = 48,
        critic_optimizer: Callable[[Iterable[Any]], Optimizer] = AdamW,
        critic_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        critic_clip: Positive | None = None,
    ) -> None:
        self.weight = weight
        self.discriminator = self.critic = PatchDiscriminator(width)
        self.critic_optimizer, self.critic_scheduler = critic_optimizer, critic_scheduler
        self.critic_clip = critic_clip

    @property
    def trains_critic(self) -> bool:
        return self.step % 2 == 1

    def __call__(self, pipeline: Pipeline, clips: Clips) -> dict[str, Tensor]:
        codec = pipeline.codec
        if not isinstance(codec, Decodes):
            raise UserError(
                f"AdversarialReconstruction: the codec {type(codec).__name__} defines no decoded(video) and "
                "distance(decoded, video), by which its decoder is trained alone."
            )
        video = clips["video"].permute(0, 1, 4, 2, 3).float() / 255
        if self.trains_critic:
            with torch.no_grad():
                decoded = codec.decoded(video)
            return self._critic(decoded, video)
        return self._decoder(codec, codec.decoded(video), video)

    def _critic(self, decoded: Tensor, video: Tensor) -> dict[str, Tensor]:
        false, true = self.discriminator(decoded)[0], self.discriminator(video)[0]
        loss = relu(1 - true).mean() + relu(1 + false).mean()
        logits = {"logit_true": true.mean().detach(), "logit_decoded": false.mean().detach()}
        return {"loss": loss, "loss_critic": loss.detach(), **logits}

    def _decoder(self, codec: Decodes, decoded: Tensor, video: Tensor) -> dict[str, Tensor]:
        losses = codec.distance(decoded, video)
        logit, hidden = self.discriminator(decoded)
        with torch.no_grad():
            wanted = self.discriminator(video)[1]
        features = sum(
            (l1_loss(found, true) for found, true in zip(hidden, wanted, strict=True)), start=logit.new_zeros(())
        )
        loss = losses["loss"] + self.weight * (features - logit.mean())
        named = {name: value.detach() for name, value in losses.items()}
        return named | {"loss": loss, "loss_student": loss.detach(), "features": features.detach()}
