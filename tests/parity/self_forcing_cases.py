"""The training cases of Self Forcing: a step of the student, cut and as released, and a step of the critic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from training_method import TOLERANCE, Case, Check, assert_agrees

from rollforge.noise import NoisePrior, Shape
from rollforge.objectives.discriminator import Discriminator
from rollforge.objectives.dmd import DMD
from rollforge.objectives.gan import GAN
from rollforge.objectives.matching import Matching
from rollforge.objectives.self_forcing import SelfForcing
from rollforge.objectives.self_rollout import History
from rollforge.objectives.sid import SiD
from rollforge.samplers import FewStep

COMMIT = 4  # the level of the commit pass, after those of four steps
GAN_CRITIC = 2e-4
NAMES = {
    "model.": "network.", "_register_tokens.register_tokens": "registers", "_register_tokens.rms_norm.": "norm.",
    "_gan_ca_blocks.": "readers.", "_cls_pred_branch.": "head.",
}  # fmt: skip
"""What the released discriminator calls its parts, and what ours are called."""


class Draws(NoisePrior):
    """The noise of one step of a case."""

    def __init__(self, inputs: dict[str, Tensor], step: str) -> None:
        self.first, self.commits = inputs[f"{step}.noise"], inputs[f"{step}.commit_noise"]
        self.renoise = inputs.get(f"{step}.renoise")

    def draw(self, seed: int, sample: int, frames: range, level: int, shape: Shape) -> Tensor:
        block = frames.start // len(frames)
        if level == 0:
            return self.first[sample, frames.start : frames.stop]
        if level == COMMIT:
            return self.commits[block, sample]
        assert self.renoise is not None
        return self.renoise[block, level - 1, sample]


@contextmanager
def replayed(case: Case, step: str, noises: Sequence[str]) -> Iterator[None]:
    """The draws of one step of a case: exit step, timestep, and the noises in order."""
    queue = [case.inputs[f"{step}.{name}"] for name in noises]

    def integers(high: int, shape: Sequence[int], **options: object) -> Tensor:
        if tuple(shape):
            return case.inputs[f"{step}.t_index"]
        return case.inputs[f"{step}.exit_flags"][0] if high == len(case.meta["denoising_steps"]) else torch.tensor(0)

    with patch.object(torch, "randint", integers), patch.object(torch, "randn_like", lambda like: queue.pop(0)):
        yield
    assert not queue


def gradients(case: Case, network: nn.Module, key: str, tolerance: float) -> None:
    """The gradients of named parameters, and the norm over all."""
    found = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
    named = {name: name.removeprefix(f"{key}.") for name in case.outputs if name.startswith(f"{key}.")}
    assert named
    for name, own in named.items():
        assert_agrees(found[renamed(own)], case.outputs[name], name, tolerance)
    norm = torch.stack([each.double().norm() for each in found.values()]).norm()
    assert_agrees(norm, case.outputs[f"{key}_norm"], f"{key}_norm", tolerance)


def renamed(name: str) -> str:
    return next((own + name.removeprefix(theirs) for theirs, own in NAMES.items() if name.startswith(theirs)), name)


def run(case: Case, matching: Matching, history: History, step: str, noises: Sequence[str]) -> SelfForcing:
    """One step of a case, its loss checked, after the backward pass."""
    student = case.network()
    if matching.needs_teacher:
        critic, teacher = case.network("weights_fake"), case.network("weights_real")
    else:
        critic, teacher = case.network("discriminator"), None
    objective = SelfForcing(matching, critic, teacher, history=history)
    objective.step = int(step == "c")
    assert objective.critic is not None
    if isinstance(objective.critic, Discriminator):
        weights = load_file(case.folder / "weights_discriminator.safetensors")
        objective.critic.load_state_dict({renamed(name): each for name, each in weights.items()})
    objective.critic.requires_grad_(step == "c")
    pipeline = case.pipeline(student, FewStep(case.meta["denoising_steps"], shift=1.0))
    pipeline.noise = Draws(case.inputs, step)
    pipeline.backbone.requires_grad_(step == "g")
    clips = {"caption": case.captions} | ({"latents": case.inputs["real_video"]} if "real_video" in case.inputs else {})
    videos: list[Tensor] = []
    roll = objective.roll

    def rolled(*arguments: object) -> Tensor:
        videos.append(roll(*arguments))  # type: ignore[arg-type]
        if videos[0].requires_grad:
            videos[0].retain_grad()
        return videos[0]

    objective.roll = rolled  # type: ignore[assignment, method-assign]
    with replayed(case, step, noises):
        losses = objective(pipeline, clips)  # type: ignore[arg-type]
        losses["loss"].backward()
    (video,) = videos
    tolerance = GAN_CRITIC if isinstance(matching, GAN) and step == "c" else TOLERANCE
    assert_agrees(video.detach(), case.outputs[f"{step}.video"], "video")
    assert_agrees(losses["loss"].detach(), case.outputs[f"{step}.loss"], "loss", tolerance)
    for name in ("logit_fake", "logit_real", "d_loss", "r1_loss", "r2_loss"):
        if f"{step}.{name}" in case.outputs:
            own = losses[f"{'critic' if step == 'c' else 'student'}_{name}"]
            assert_agrees(own, case.outputs[f"{step}.{name}"], name, tolerance)
    if step == "c":
        gradients(case, objective.critic, "c.grad", tolerance)
    else:
        assert video.grad is not None
        assert_agrees(video.grad, case.outputs["g.video_grad"], "video_grad", tolerance)
        gradients(case, student, "g.grad_cut" if history == "cut" else "g.grad", tolerance)
    return objective


def scores(kind: type[DMD] | type[SiD]) -> Check:
    def check(case: Case) -> None:
        meta = case.meta
        matching = kind(
            guidance=meta["guidance_scale"], shift=meta["timestep_shift"], score_shift=meta["score_grid_shift"]
        )
        for history, step in (("straight_through", "g"), ("cut", "g"), ("straight_through", "c")):
            case.passes.clear()
            run(case, matching, history, step, ["score_noise"])  # type: ignore[arg-type]
            noisy, timesteps, flow = case.passes["weights_fake"][-1]
            assert_agrees(timesteps, case.outputs[f"{step}.timestep"], "timestep")
            assert_agrees(noisy.detach(), case.outputs[f"{step}.noisy"], "noisy")
            x0 = (noisy - matching.sigma(timesteps) * flow).detach()
            assert_agrees(x0, case.outputs[f"{step}.fake_x0"], "fake_x0")
            if step == "g":
                names = ("real_cond_x0", "real_uncond_x0")
                for name, (noisy, timesteps, flow) in zip(names, case.passes["weights_real"], strict=True):
                    x0 = (noisy - matching.sigma(timesteps) * flow).detach()
                    assert_agrees(x0, case.outputs[f"g.{name}"], name)

    return check


def gan(case: Case) -> None:
    meta = case.meta
    depth, ffn = meta["discriminator"]["layers"], meta["discriminator"]["ffn_dim"]
    taps = [tap / depth for tap in meta["discriminator"]["taps"]]
    assert meta["r1_weight"] == meta["r2_weight"]
    assert meta["r1_sigma"] == meta["r2_sigma"]
    matching = GAN(taps, meta["r1_weight"], meta["r1_sigma"], ffn, meta["timestep_shift"])
    for history in ("straight_through", "cut"):
        run(case, matching, history, "g", ["score_fake_noise", "score_real_noise"])  # type: ignore[arg-type]
    run(case, matching, "straight_through", "c", ["score_noise_of_both", "score_r1_noise", "score_r2_noise"])


CASES: dict[str, Check] = {"dmd": scores(DMD), "sid": scores(SiD), "gan": gan}
