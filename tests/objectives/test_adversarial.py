"""Training a decoder alone: its numbers against a computation by hand, and what ``fit`` changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from objective_parts import CAPTIONS, clips, pipeline
from torch.nn.functional import conv2d, group_norm, leaky_relu

from rollforge.backbones.pocket.codec import PocketCodec
from rollforge.errors import UserError
from rollforge.lightning.data import RolloutData
from rollforge.lightning.module import RolloutModule
from rollforge.objectives.adversarial import AdversarialReconstruction
from rollforge.testing import check_objective

DECODER, CRITIC = 0, 1  # steps


def owner() -> Any:
    torch.manual_seed(0)
    return pipeline(codec=PocketCodec(width=32, noise=0.0))


def frames(count: int = 2) -> Any:
    drawn = torch.Generator().manual_seed(3)
    video = torch.randint(256, (count, 2, 64, 64, 3), generator=drawn, dtype=torch.uint8)
    return {"video": video, "caption": [CAPTIONS[n % 2] for n in range(count)]}


def layers(critic: Any, video: torch.Tensor) -> list[torch.Tensor]:
    """Hidden layers and logits, written out."""
    first, second, third = critic.layers
    a = leaky_relu(conv2d(video * 2 - 1, first.weight, first.bias, 2, 1), 0.2)
    b = conv2d(a, second[0].weight, second[0].bias, 2, 1)
    b = leaky_relu(group_norm(b, 8, second[1].weight, second[1].bias), 0.2)
    c = conv2d(b, third[0].weight, third[0].bias, 1, 1)
    c = leaky_relu(group_norm(c, 8, third[1].weight, third[1].bias), 0.2)
    return [a, b, c, conv2d(c, critic.logit.weight, critic.logit.bias)]


def test_it_keeps_the_rules_of_objectives() -> None:
    check_objective(AdversarialReconstruction())


@pytest.mark.parametrize("step", [CRITIC, DECODER])
def test_its_losses_are_those_of_the_table(step: int) -> None:
    made, batch = owner(), frames()
    objective = AdversarialReconstruction(weight=0.3, width=8)
    objective.step = step
    found = objective(made, batch)["loss"]
    video = batch["video"].permute(0, 1, 4, 2, 3).float() / 255
    codec = made.codec.eval()
    decoded = codec.pixels(codec.latents(video))
    true, false = (layers(objective.critic, each.flatten(0, 1)) for each in (video, decoded))
    if step == CRITIC:
        expected = (1 - true[-1]).clamp(min=0).mean() + (1 + false[-1]).clamp(min=0).mean()
    else:
        l1, l2 = (decoded - video).abs().mean(), (decoded - video).square().mean()
        edges = sum((decoded.diff(dim=n) - video.diff(dim=n)).abs().mean() for n in (3, 4))
        features = sum((a - b).abs().mean() for a, b in zip(true[:3], false[:3], strict=True))
        expected = l1 + 4 * l2 + edges + 0.3 * (features - false[-1].mean())
    torch.testing.assert_close(found, expected)


def test_fit_changes_the_decoder_and_the_discriminator_alone() -> None:
    objective = AdversarialReconstruction(width=8)
    parts = owner()
    module = RolloutModule(
        parts.backbone, parts.conditioner, parts.codec, parts.policy, parts.sampler, objective=objective
    )
    before = {name: value.clone() for name, value in module.codec.state_dict().items()}
    critic = {name: value.clone() for name, value in objective.critic.state_dict().items()}
    data = RolloutData(train_dataset=[{key: value[0] for key, value in frames(1).items()}] * 4, batch_size=2)
    trainer = Trainer(
        accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(module, data)
    changed = {name for name, value in module.codec.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith("decoder.")}
    assert not any(torch.equal(value, critic[name]) for name, value in objective.critic.state_dict().items())


def test_a_codec_without_a_decoder_to_train_is_refused() -> None:
    with pytest.raises(UserError, match=r"the codec Pixels defines no decoded\(video\)"):
        AdversarialReconstruction()(pipeline(), clips())
