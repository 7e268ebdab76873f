"""How rollforge computes each training case, by its method."""

from __future__ import annotations

from typing import Any

import torch
from self_forcing_cases import CASES as SELF_FORCING
from torch import Tensor
from training_method import Case, Check

from rollforge.objectives.consistency import ConsistencyDistillation
from rollforge.objectives.flow import DiffusionForcing, FlowMatching, TeacherForcing
from rollforge.objectives.ode import OdeRegression
from rollforge.samplers import FewStep


def flow_matching(kind: type[FlowMatching]) -> Check:
    def check(case: Case) -> None:
        block, frames = case.meta["block"], case.meta["frames"]
        objective = kind(shift=case.meta["timestep_shift"], grid=1000, weighting="bell", drop_text=0)
        network, clean = case.network(), case.inputs["clean"]
        losses = case.losses(
            objective, case.pipeline(network), {"latents": clean, "caption": case.captions},
            case.inputs["index"][:, ::block],
        )  # fmt: skip
        ((noisy, timesteps, flow),) = case.passes["weights"]
        noisy, timestep, flow = (x[:, -frames:] for x in (noisy, timesteps, flow))
        x0 = noisy - timestep[..., None, None, None] / 1000 * flow
        case.check(timestep=timestep, flow=flow, x0=x0, loss=losses["loss"])
        case.check_gradients(network)

    return check


def ode(history: str) -> Check:
    def check(case: Case) -> None:
        frames, steps = case.meta["frames"], case.meta["denoising_steps"]
        network, index = case.network(), case.inputs["index"]
        losses = case.losses(
            OdeRegression(history=history),  # type: ignore[arg-type]
            case.pipeline(network, FewStep(steps, shift=1.0)),
            {
                "trajectory": case.inputs["trajectory"], "caption": case.captions,
                "timesteps": torch.tensor(steps).expand(len(index), -1),
            },
            index[:, :: case.meta["block"]] if history == "noisy" else index[:, :1],
        )  # fmt: skip
        ((noisy, timesteps, flow),) = case.passes["weights"]
        noisy, timestep, flow = (x[:, -frames:] for x in (noisy, timesteps, flow))
        x0 = noisy - timestep[..., None, None, None] / 1000 * flow
        case.check(timestep=timestep, flow=flow, x0=x0, loss=losses["loss"])
        case.check_gradients(network)

    return check


def consistency(case: Case) -> None:
    network = case.network()
    objective = ConsistencyDistillation(
        case.network("weights_teacher"), case.meta["grid"], case.meta["timestep_shift"], case.meta["guidance_scale"]
    )
    objective.average = case.network("weights_ema")
    clean, predicted = [], objective.x0

    def recording(*arguments: Any) -> Tensor:
        clean.append(predicted(*arguments))
        return clean[-1]

    objective.x0 = recording  # type: ignore[assignment, method-assign]
    losses = case.losses(
        objective, case.pipeline(network), {"latents": case.inputs["clean"], "caption": case.captions},
        case.inputs["index"],
    )  # fmt: skip
    asked, negative = (made[:, case.meta["frames"] :] for *_, made in case.passes["weights_teacher"])
    ((_, t, _),), ((_, lower, _),) = case.passes["weights"], case.passes["weights_ema"]
    target, x0 = clean
    case.check(
        timestep=torch.stack([t[0, -1], lower[0, -1]]), teacher_flow=asked, teacher_flow_negative=negative,
        x0=x0, target=target, loss=losses["loss"],
    )  # fmt: skip
    case.check_gradients(network)


CASES: dict[str, Check] = {
    "teacher_forcing": flow_matching(TeacherForcing),
    "diffusion_forcing": flow_matching(DiffusionForcing),
    "ode": ode("noisy"),
    "causal_ode": ode("clean"),
    "consistency": consistency,
    **SELF_FORCING,
}
