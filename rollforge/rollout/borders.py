"""Checks of what the components of a rollout return. See ``rollforge.borders``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from numbers import Real
from types import NoneType
from typing import Any

import torch
from torch import Tensor

from rollforge.backbones.base import Condition
from rollforge.borders import WrongAnswer, check_tensor, shown, whole
from rollforge.errors import UserError
from rollforge.noise import NoisePrior
from rollforge.policies.base import CachePolicy
from rollforge.samplers.base import TIMESTEPS, Finished, Keep, Pass, Sampler
from rollforge.spec import ModelSpec, Phase, ReadPlan, Reencode, Segment, Step, Virtual


def check_request(sampler: Sampler, request: Any, due: Step, rows: int, spec: ModelSpec, device: torch.device) -> None:
    """Raises ``UserError`` for a request of a sampler that cannot be met. ``due`` is the block that is made next."""
    when = f"at block {due.index}"
    if not isinstance(request, (Pass, Keep, Finished)) or not isinstance(request.step, Step):
        raise WrongAnswer("sampler", sampler, request, when, "a Pass, a Keep or a Finished with its Step")
    if not isinstance(request, Finished):
        _check_branch(sampler, request)
    if isinstance(request, Keep):
        return
    frames = request.step.frames
    when = f"for frames {frames.start} to {frames.stop - 1}"
    if frames.start < 0 or not frames:
        raise WrongAnswer("sampler", sampler, request.step, "as a step", "one with frames from 0 on")
    latents = check_tensor("sampler", sampler, request.latents, when, (rows, len(frames), *spec.latent_shape), device)
    if latents.dtype != torch.get_default_dtype():
        raise WrongAnswer("sampler", sampler, latents, when, f"{torch.get_default_dtype()}, as the noise is")
    if isinstance(request, Pass):
        _check_pass(sampler, request, when)


def _check_branch(sampler: Sampler, request: Pass | Keep) -> None:
    branches, asked = sampler.guidance_branches, request.guidance_branch
    if asked not in branches and not (isinstance(asked, tuple) and asked and {*asked} <= {*branches}):
        raise WrongAnswer("sampler", sampler, asked, "as a guidance branch", f"one of {branches}, or a tuple of them")


def _check_pass(sampler: Sampler, request: Pass, when: str) -> None:
    if not isinstance(request.step.phase, Phase):
        raise WrongAnswer("sampler", sampler, request.step.phase, f"as a phase {when}", "a Phase")
    if request.plan is not None:
        read_plan("sampler", sampler, request.plan, f"as a plan {when}")
    check_named_tensors("sampler", sampler, request.extra, f"as extra {when}")
    level, expected = request.timestep, f"a number from 0 to {TIMESTEPS:g}, or one for each frame"
    if isinstance(level, Tensor):
        try:
            fits = torch.broadcast_shapes(level.shape, request.latents.shape[:2]) == request.latents.shape[:2]
        except RuntimeError:
            fits = False
    else:
        fits = isinstance(level, (int, float)) and not isinstance(level, bool) and 0 <= level <= TIMESTEPS
    if not fits:
        raise WrongAnswer("sampler", sampler, level, f"as a timestep {when}", expected)


def check_noise(noise: NoisePrior, drawn: Any, when: str, shape: Sequence[int], device: torch.device) -> Tensor:
    """What a noise prior has drawn for a rollout on this device, if it is of the default dtype.

    Its numbers are not read, so that nothing waits for the device.
    """
    shapes_alone = device.type == "meta" and isinstance(drawn, Tensor)
    drawn = check_tensor("noise prior", noise, drawn, when, shape, drawn.device if shapes_alone else None)
    if drawn.dtype != torch.get_default_dtype():
        raise WrongAnswer("noise prior", noise, drawn, when, str(torch.get_default_dtype()))
    return drawn


def check_finished(sampler: Sampler, made: Finished, due: Step, frames: int) -> None:
    """Raises ``UserError`` for a finished block that is not ``due``, or that was not requested."""
    if due.start >= frames:
        raise WrongAnswer("sampler", sampler, f"block {made.step.index}", "at the end", f"no more than {frames} frames")
    got = (made.step.index, made.step.frames)
    if got != (due.index, due.frames):
        raise UserError(
            f"The sampler {type(sampler).__name__} finished block {got[0]} (frames {got[1].start} to "
            f"{got[1].stop - 1}); expected block {due.index} (frames {due.frames.start} to {due.frames.stop - 1}), "
            "since blocks are finished in order."
        )


def ended_early(sampler: Sampler, due: Step, frames: int) -> UserError:
    """The error for a sampler that ends before the video does."""
    return UserError(
        f"The sampler {type(sampler).__name__} ended before block {due.index}, at frame {due.start} of {frames}; its "
        "run must yield a Finished for every step of the job."
    )


def frame_numbers(policy: CachePolicy, answer: Any, name: str, start: int) -> frozenset[int]:
    """What ``live`` or a similar method of a policy returned, if it is a set of frame numbers."""
    if not isinstance(answer, AbstractSet) or not ({*map(type, answer)} <= {int} or all(map(whole, answer))):
        raise WrongAnswer("cache policy", policy, answer, f"from {name}({start}, ...)", "a set of whole numbers")
    return frozenset(answer)


def frame_count(policy: CachePolicy, answer: Any, name: str) -> int:
    """What ``visible`` of a policy returned, if it is a number of frames."""
    if not whole(answer) or answer < 0:
        raise WrongAnswer("cache policy", policy, answer, f"from {name}", "a whole number of frames, 0 or more")
    return int(answer)


def read_plan(kind: str, part: object, answer: Any, when: str) -> ReadPlan:
    """What was returned as a plan, if its segments are runs of frames."""
    if not isinstance(answer, ReadPlan) or not isinstance(answer.segments, tuple):
        raise WrongAnswer(kind, part, answer, when, "a ReadPlan with a tuple of Segments")
    if not whole(answer.query):
        raise WrongAnswer(kind, part, answer.query, f"as query {when}", "a whole number")
    for run in answer.segments:
        if not isinstance(run, Segment) or not _is_run(run):
            raise WrongAnswer(
                kind, part, run, f"in the segments {when}", "a Segment of whole numbers, with 0 frames or more"
            )
    return answer


def _is_run(run: Segment) -> bool:
    numbers = all(map(whole, (run.content, run.length, run.stride, run.branch))) and run.length >= 0
    chosen = isinstance(run.layers, (range, tuple, NoneType)) and isinstance(run.heads, (Sequence, NoneType))
    return numbers and chosen and all(isinstance(each, Real) for each in (run.time, run.bias))


def virtual_frames(policy: CachePolicy, answer: Any) -> list[Virtual]:
    """What ``virtual`` of a policy returned, if it is a sequence of virtual frames."""
    expected = "a sequence of Virtual"
    if not isinstance(answer, Sequence) or isinstance(answer, str):
        raise WrongAnswer("cache policy", policy, answer, "from virtual", expected)
    for each in answer:
        if not isinstance(each, Virtual):
            raise WrongAnswer("cache policy", policy, each, "from virtual", expected)
    return list(answer)


def wishes(policy: CachePolicy, answer: Any, name: str) -> list[range | Reencode]:
    """What a policy wants to read or encode again, if it is a sequence of ranges and of ``Reencode``."""
    expected = "a sequence of ranges of frames, with a step of 1"
    if policy.reencodes:
        expected += ", and of Reencode"
    if answer is None:
        return []
    if not isinstance(answer, Sequence) or isinstance(answer, (range, str)):
        raise WrongAnswer("cache policy", policy, answer, f"from {name}", expected)
    for each in answer:
        if not (isinstance(each, range) and each.step == 1) and not (policy.reencodes and isinstance(each, Reencode)):
            raise WrongAnswer("cache policy", policy, each, f"from {name}", expected)
    return [each for each in answer if isinstance(each, Reencode) or each]


def check_condition(kind: str, part: object, condition: Any, rows: int | None = None) -> None:
    """Raises ``UserError`` for features that are not a ``Condition`` with a row for each sample."""
    when = "for the prompts"
    if not isinstance(condition, Condition) or not isinstance(condition.embeds, Tensor) or not condition.embeds.dim():
        raise WrongAnswer(kind, part, condition, when, "a Condition with a tensor of features")
    if not isinstance(condition.id, str):
        raise WrongAnswer(kind, part, condition.id, "as the id of a Condition", "text")
    check_named_tensors(kind, part, condition.extra, "as extra of a Condition")
    tensors = {"embeds": condition.embeds, **condition.extra}
    rows = len(condition.embeds) if rows is None else rows
    shapes_alone = kind != "conditioner"  # the budget of a training rolls without values
    for name, value in tensors.items():
        if not value.dim() or len(value) != rows or (value.is_meta and not shapes_alone):
            raise WrongAnswer(kind, part, value, f"as {name} of a Condition", f"a tensor with {rows} rows")


def check_named_tensors(kind: str, part: object, answer: Any, when: str) -> None:
    """Raises ``UserError`` for what is not a dict from texts to tensors."""
    named = isinstance(answer, Mapping) and all(isinstance(name, str) for name in answer)
    if not named or not all(isinstance(value, Tensor) for value in answer.values()):
        raise WrongAnswer(kind, part, answer, when, "a dict from texts to tensors")


def check_extra(condition: Condition, frames: int) -> None:
    """Raises ``UserError`` for tensors of a condition that do not reach to the end of a video of ``frames``."""
    for name, value in condition.extra.items():
        if value.dim() < 2 or value.shape[1] not in (1, *range(frames, value.shape[1] + 1)):
            raise UserError(
                f"extra[{name!r}] of the condition {condition.id!r} is {shown(value)}; expected [rows, frames, ...] "
                f"with {frames} frames or more, or 1 for all of them."
            )


def check_branches(sampler: Sampler) -> None:
    """Raises ``UserError`` for a sampler whose guidance branches cannot be followed."""
    branches: Collection[Any] = sampler.guidance_branches
    if not branches or {*branches} - {"prompt", "negative"} or len({*branches}) < len(branches):
        raise WrongAnswer("sampler", sampler, branches, "as guidance_branches", "('prompt',) or ('prompt', 'negative')")
