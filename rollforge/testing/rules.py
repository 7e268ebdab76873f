"""The rules that the checks test, and the error that names the one that a component breaks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor

RULES: dict[str, str] = {
    "policy-pure": "plan, live, moves and visible depend on the step and the policy's state, and change neither",
    "policy-bound": "no plan reads more frames than visible says",
    "policy-live": "every frame that a plan reads was committed before and is live from then on",
    "policy-moves": "moves names only live frames, and all that are read at another time index or made into others",
    "policy-virtual": "virtual frames are made from committed or earlier virtual frames, which live and moves name",
    "policy-observe": "observe and sees belong together: without the one the other does nothing",
    "policy-plan": "each block reads what an independent function says",
    "policy-rollout": "a rollout follows the policy: from nothing, from given frames, and over a change of prompt",
    "policy-phase": "each pass reads the plan of its own phase and level",
    "policy-batch": "a batch of two equals two rollouts of one",
    "policy-separate": "two interleaved rollouts do not change each other",
    "policy-resume": "a rollout that is interrupted after any block resumes exactly",
    "policy-state": "an interrupted and resumed rollout leaves the policy in the state of an uninterrupted one",
    "policy-shift": "a policy that differs only by a shift of all time indices gives the same video",
    "sampler-requests": "run yields Pass and Finished, of the shape of the noise, at timesteps from 0 to 1000",
    "sampler-order": "every block is finished once, in order, whole, and finite",
    "sampler-commit": "after each finished block every branch commits it before a later block is finished",
    "sampler-noise": "noise is drawn once for each frame and level, and below commit_level until the commit",
    "sampler-batch": "a batch of two equals two rollouts of one",
    "sampler-separate": "two interleaved rollouts do not change each other",
    "sampler-resume": "a rollout that is interrupted after any block resumes exactly",
    "sampler-again": "a block that is refused and made again from the same noise is the same block",
    "backbone-flow": "the flow has the shape of the latents and is finite",
    "backbone-attend": "every layer of the spec attends once in a pass that writes, with tensors of the spec's shape",
    "backbone-repeat": "the same pass gives the same flow, and changes neither its arguments nor the network",
    "backbone-batch": "a batch of two equals two passes of one",
    "backbone-cache": "a cached rollout equals the dense masked pass, each frame at its own timestep",
    "backbone-reference": "the dense masked pass equals the model's own forward",
    "backbone-checkpointing": "gradients are the same under gradient checkpointing",
    "backbone-state-dict": "a network with the same state_dict gives the same flow",
    "backbone-dtype": "the network runs in bfloat16 after to(torch.bfloat16), near its flow in float32",
    "backbone-device": "after to(device) every tensor of the network is on that device",
    "backbone-weights": "a network with parameters says in its attribute weights where they are from",
    "codec-size": "encode, decode, pixel_frames and pixel_size agree on the number and size of frames",
    "codec-range": "decoded pixels are finite and from 0 to 1, without gradients",
    "codec-stream": "a stream fed in pieces equals the whole decoded at once",
    "codec-batch": "a batch of two equals two videos of one",
    "codec-separate": "two interleaved streams do not change each other",
    "codec-resume": "a new stream with the state of another continues identically, and the state is plain and a copy",
    "finish-size": "the frames are as many as were given, and of the size that pixel_size says",
    "finish-range": "finished pixels are finite and from 0 to 1, without gradients",
    "finish-repeat": "the same frames in a new stream are finished alike, and are not changed",
    "finish-stream": "a stream fed in pieces equals one fed at once",
    "finish-batch": "a batch of two equals two videos of one",
    "finish-separate": "two interleaved streams do not change each other",
    "finish-resume": "a new stream with the state of another continues identically, and the state is plain and a copy",
    "finish-loss": "a loss, where the stage has one, is a dict of finite scalars with loss, which has a gradient",
    "noise-shape": "a draw is float32, finite, and of the requested shape",
    "noise-address": "a draw depends on seed, sample, frames and level alone, in any order of draws",
    "noise-scale": "the noise has a mean near 0 and a standard deviation near 1",
    "noise-seed": "another seed or sample gives other noise",
    "kv-shape": "decode gives back keys and values of the shape, dtype and device that encode took",
    "kv-error": "keys and values are restored within the tolerance",
    "kv-plain": "the encoded form is plain data, so that a snapshot can hold it",
    "kv-again": "decoding does not change the encoded form, nor what it is made of",
    "kv-batch": "a batch of two equals two of one",
    "metric-curve": "a curve has one number for each frame of the update",
    "metric-input": "measuring does not change the frames",
    "metric-figures": "finish returns numbers by name, and may be called while the video continues",
    "metric-split": "the curves do not depend on how the frames are split into updates",
    "metric-again": "start resets the state of the previous video",
    "metric-resume": "a fresh metric with the state of another continues identically",
    "flow-field": "a flow has two finite floats for each pixel, for pictures of any size",
    "flow-repeat": "a flow depends on the two images alone, and does not change them",
    "flow-still": "between an image and itself nothing moves",
    "flow-moved": "what has moved to the right and down is found there, in pixels, x first",
    "conditioner-rows": "there is one finite row of features for each prompt",
    "conditioner-id": "equal prompts have equal ids and features, and other prompts another id",
    "conditioner-batch": "the features of a prompt do not depend on the prompts next to it",
    "conditioner-check": "check accepts the prompts that forward expresses",
    "objective-loss": "the losses are finite scalars by name, and loss is one of them",
    "objective-gradient": "loss has a gradient for the component that it trains",
    "matching-loss": "both losses and all that is logged are finite scalars; frames holds one value for each frame",
    "matching-student": "the loss of the student has a finite gradient for its video",
    "matching-critic": "the loss of the critic has a gradient for the critic",
    "dataset-clip": "a clip has a video, uint8 [T, H, W, 3], and a caption, or a caption alone",
    "dataset-repeat": "a clip is the same whenever it is read",
    "positions-repeat": "the same times get the same placement, and turn does not change what it is given",
    "positions-shape": "turn keeps shape and dtype, and stays finite far beyond any table",
    "positions-frame": "the placement of a frame does not depend on the frames next to it",
    "positions-key": "where the key is equal, so are the placements",
    "attention-dense": "the result is the softmax of q . k / sqrt(head_dim), plus the bias, times the values",
    "attention-shared": "fewer key heads are each shared by as many heads of the queries in a row",
    "attention-repeat": "the same call gives the same result, and changes nothing that it was given",
    "attention-batch": "a batch of two equals two of one",
    "combine-shape": "the result has the shape of one branch, and is finite",
    "combine-repeat": "the same outputs give the same result, and are not changed",
    "combine-batch": "a batch of two equals two of one",
    "memory-attend": "attention reads exactly the frames of the plan, at their time indices, and the pass itself",
    "memory-state": "a new memory with the state of another continues identically",
    "memory-bias": "a bias, of a segment or of the pass, is added to the logits of its keys",
    "memory-layers": "each layer reads the segments that name it, and those that name none",
    "memory-groups": "each of fewer key heads is shared by as many query heads in a row",
    "memory-virtual": "a virtual frame is made from raw keys and values, and read like any frame",
    "memory-missing": "a plan that reads a frame that is not kept, or too many, is refused with a ValueError",
}  # fmt: skip
"""The contract of each kind, by the name of the rule."""
PAGES = {
    "policy": "cache",
    "sampler": "sampler",
    "backbone": "backbone",
    "codec": "codec",
    "finish": "finish",
    "noise": "noise",
    "kv": "kv_codec",
    "metric": "metric",
    "flow": "flow",
    "conditioner": "conditioner",
    "objective": "objective",
    "matching": "matching",
    "dataset": "dataset",
    "positions": "positions",
    "combine": "combine",
    "attention": "attention",
    "memory": "memory",
}
"""The kind of part that a rule is for, by the first word of its name."""


class CheckFailed(AssertionError):
    """A component breaks a rule of its contract."""

    def __init__(self, rule: str, part: object, problem: str) -> None:
        self.rule, self.problem = rule, problem
        self.page = f"docs/plugins.md#rules-{PAGES[rule.partition('-')[0]]}"
        super().__init__(f"{type(part).__name__} breaks {rule}: {RULES[rule]}. {problem} See {self.page}.")


def fail(rule: str, part: object, problem: str) -> NoReturn:
    """Raises ``CheckFailed``."""
    raise CheckFailed(rule, part, problem)


@contextmanager
def keeping(rule: str, part: object, when: str) -> Iterator[None]:
    """Reports any exception inside as a violation of the rule."""
    try:
        yield
    except Exception as error:
        found: BaseException | None = error
        while found is not None:  # a check inside of a pass
            if isinstance(found, CheckFailed):
                raise found from None
            found = found.__cause__
        raise CheckFailed(rule, part, f"{when} it raised {type(error).__name__}: {error}") from error


def same(rule: str, part: object, when: str, found: Tensor, expected: Tensor, tolerance: float = 0.0) -> None:
    """Fails where two tensors differ by more than ``tolerance``, relative to the largest expected value."""
    if found.shape != expected.shape:
        fail(rule, part, f"{when} the shape is {list(found.shape)}, expected {list(expected.shape)}.")
    one, other = found.detach().double(), expected.detach().double()
    difference = (one - other).abs()
    difference[(one == other) | (one.isnan() & other.isnan())] = 0
    largest = difference.nan_to_num(torch.inf).max().item() if difference.numel() else 0.0
    scale = max(1.0, other.nan_to_num(0, 0, 0).abs().max().item()) if other.numel() else 1.0
    if largest > tolerance * scale:
        place = tuple(int(n) for n in torch.unravel_index(difference.nan_to_num(torch.inf).argmax(), difference.shape))
        fail(
            rule, part,
            f"{when} the value at {list(place)} is {one[place].item():.6g}, expected {other[place].item():.6g} "
            f"(difference {largest:.3g}, allowed {tolerance * scale:.3g}).",
        )  # fmt: skip


def expect(holds: Any, rule: str, part: object, problem: str) -> None:
    """Fails unless something holds."""
    if not holds:
        fail(rule, part, problem)
