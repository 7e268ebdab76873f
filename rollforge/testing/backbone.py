"""The check of backbones."""

from __future__ import annotations

import io
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rollforge.backbones.base import Backbone, Condition
from rollforge.memory import MaskedMemory, RolloutMemory
from rollforge.memory.base import Memory
from rollforge.policies.window import Window
from rollforge.spec import Phase, Step
from rollforge.testing.rules import expect, fail, keeping, same
from rollforge.testing.tiny import TOLERANCE, row_of

Reference = Callable[[Tensor, Tensor, Condition], Tensor]
"""A model's own forward: latents, timesteps and condition to the flow, each block attending to itself and earlier ones.
"""
BLOCKS = 3


def check_backbone(
    backbone: Backbone,
    condition: Condition,
    *,
    reference: Reference | None = None,
    positions: Any = None,
    tolerance: float = TOLERANCE,
) -> None:
    """Checks a network in float32 on the CPU: build it small.

    Args:
        backbone: with a window of two blocks or more. It is copied, not changed.
        condition: two rows of features that it takes, unlike each other.
        reference: the model's own forward over the same three blocks, where it has one.
        positions: those that it is rolled with; default: its own.
        tolerance: how far two ways of computing a flow may differ, relative to the largest value.

    Raises:
        CheckFailed: with the rule and the values.
    """
    _Backbone(deepcopy(backbone).float().eval(), condition, positions, tolerance).check(reference)


class _Backbone:
    def __init__(self, backbone: Backbone, condition: Condition, positions: Any, tolerance: float) -> None:
        self.part, self.spec, self.condition, self.tolerance = backbone, backbone.spec, condition, tolerance
        self.positions = positions if positions is not None else getattr(backbone, "positions", None)
        generator = torch.Generator().manual_seed(5)
        frames = min(BLOCKS, self.spec.window // self.spec.block) * self.spec.block
        self.latents = torch.randn(2, frames, *self.spec.latent_shape, generator=generator)
        blocks = torch.arange(frames) // self.spec.block
        self.timesteps = (900.0 - 250.0 * blocks)[None].expand(2, -1).clone()

    def check(self, reference: Reference | None) -> None:
        self._weights()
        dense = self._flow_and_layers()
        self._repeat(dense)
        for row in (0, 1):
            alone = self._dense(self.latents[row : row + 1], self.timesteps[row : row + 1], row_of(self.condition, row))
            self._same("backbone-batch", f"In row {row}", dense[row : row + 1], alone)
        self._same("backbone-cache", "In a cached rollout", self._cached(), dense)
        if reference is not None:
            with keeping("backbone-reference", self.part, "In the model's own forward"), torch.no_grad():
                own = reference(self.latents, self.timesteps, self.condition)
            self._same("backbone-reference", "In the dense masked pass", dense, own)
        self._checkpointing()
        self._state_dict(dense)
        self._device()
        self._dtype(dense)

    def _same(self, rule: str, when: str, found: Tensor, expected: Tensor, factor: float = 1.0) -> None:
        same(rule, self.part, when, found, expected, factor * self.tolerance)

    def _memory(self) -> MaskedMemory:
        return MaskedMemory.diffusion_forcing(self.spec, self.latents.shape[1], self.positions)

    def _dense(self, latents: Tensor, timesteps: Tensor, condition: Condition, memory: Memory | None = None) -> Tensor:
        """The flow of a whole clip in one masked pass."""
        with torch.no_grad():
            flow: Tensor = self.part(latents, timesteps, condition, memory or self._memory())
        return flow

    def _weights(self) -> None:
        count = len(list(self.part.parameters()))
        if count and not hasattr(self.part, "weights"):
            fail(
                "backbone-weights", self.part, f"It has {count} parameters and no attribute weights (a name, or None)."
            )

    def _flow_and_layers(self) -> Tensor:
        counting = _Counting(self._memory(), self.part)
        with keeping("backbone-flow", self.part, f"With latents {list(self.latents.shape)}"):
            flow = self._dense(self.latents, self.timesteps, self.condition, counting)
        expect(
            isinstance(flow, Tensor) and flow.shape == self.latents.shape and bool(flow.isfinite().all()),
            "backbone-flow", self.part,
            f"For latents {list(self.latents.shape)} it answers {list(getattr(flow, 'shape', []))} or numbers that "
            "are not finite.",
        )  # fmt: skip
        layers = sorted(counting.layers)
        problem = f"Its spec has {self.spec.layers} layers; those that attend are {layers}."
        if layers and layers != list(range(self.spec.layers)):
            fail("backbone-attend", self.part, problem)
        tokens = self.latents.shape[1] * self.spec.tokens
        for layer, name, shape in counting.shapes:
            expected = (2, tokens, self.spec.heads, self.spec.head_dim)
            fewer = name != "q" and len(shape) == 4 and shape[2] and self.spec.heads % shape[2] == 0
            if shape != (expected if not fewer else (*expected[:2], shape[2], expected[3])):
                fail("backbone-attend", self.part, f"{name} of layer {layer} is {list(shape)}, not {list(expected)}.")
        return flow

    def _repeat(self, dense: Tensor) -> None:
        latents, timesteps = self.latents.clone(), self.timesteps.clone()
        before = {name: value.clone() for name, value in self.part.state_dict().items()}
        same("backbone-repeat", self.part, "Run again", self._dense(latents, timesteps, self.condition), dense)
        same("backbone-repeat", self.part, "After a pass, in its latents", latents, self.latents)
        same("backbone-repeat", self.part, "After a pass, in its timesteps", timesteps, self.timesteps)
        for name, value in self.part.state_dict().items():
            same("backbone-repeat", self.part, f"After a pass, in {name}", value, before[name])

    def _cached(self) -> Tensor:
        """The flow of the same clip block by block, each block kept as it is for the later ones."""
        size = self.spec.block
        policy = Window(max(1, self.spec.window // size - 1))
        memory = RolloutMemory(self.spec, policy.visible(size), self.positions)
        flows = []
        for index in range(self.latents.shape[1] // size):
            step = Step.of(index, size, Phase.COMMIT)
            place = slice(step.start, step.start + size)
            with keeping("backbone-cache", self.part, f"At block {index} of a cached rollout"), torch.no_grad():
                memory.begin(step, policy.plan(step))
                flows.append(self.part(self.latents[:, place], self.timesteps[:, place], self.condition, memory))
                memory.end(policy.live(step.start + size, size), frozenset())
        return torch.cat(flows, dim=1)

    def _checkpointing(self) -> None:
        trained = deepcopy(self.part).requires_grad_(True)
        gradients: list[dict[str, Tensor]] = []
        for kept in (True, False):
            arguments = self.latents.clone().requires_grad_(True), self.timesteps, self.condition, self._memory()
            with keeping("backbone-checkpointing", self.part, "With gradients"):
                flow = trained(*arguments) if kept else checkpoint(trained, *arguments, use_reentrant=False)
                trained.zero_grad()
                flow.square().mean().backward()
            found = {name: weight.grad for name, weight in trained.named_parameters() if weight.grad is not None}
            gradients.append(found if arguments[0].grad is None else {"the latents": arguments[0].grad, **found})
        if gradients[0].keys() != gradients[1].keys():
            problem = f"Of {sorted(gradients[0].keys() ^ gradients[1].keys())[0]} only one way has a gradient."
            fail("backbone-checkpointing", self.part, problem)
        for name, gradient in gradients[0].items():
            self._same("backbone-checkpointing", f"In the gradient of {name}", gradients[1][name], gradient)

    def _state_dict(self, dense: Tensor) -> None:
        file = io.BytesIO()
        with keeping("backbone-state-dict", self.part, "Saved and loaded"):
            torch.save(self.part.state_dict(), file)
            file.seek(0)
            other = deepcopy(self.part)
            for tensor in (*other.parameters(), *other.buffers()):
                if tensor.is_floating_point():
                    tensor.data.normal_()
            other.load_state_dict(torch.load(file, weights_only=True))
            with torch.no_grad():
                flow = other(self.latents, self.timesteps, self.condition, self._memory())
        same("backbone-state-dict", self.part, "Loaded into a network with other weights", flow, dense)

    def _device(self) -> None:
        """Checks the network on the meta device, which computes nothing and mixes with no other device."""
        moved = deepcopy(self.part).to("meta")
        with keeping("backbone-device", self.part, "On another device"), torch.no_grad():
            flow = moved(self.latents.to("meta"), self.timesteps.to("meta"), self.condition.to("meta"), self._memory())
        problem = f"On the device 'meta' its flow is on {str(flow.device)!r}."
        expect(flow.device.type == "meta", "backbone-device", self.part, problem)

    def _dtype(self, dense: Tensor) -> None:
        half = deepcopy(self.part).to(torch.bfloat16)
        with keeping("backbone-dtype", self.part, "In bfloat16"), torch.no_grad():
            flow = half(self.latents.bfloat16(), self.timesteps, self.condition.to(torch.bfloat16), self._memory())
        same("backbone-dtype", self.part, "In bfloat16", flow.float(), dense, 0.1)


class _Counting(Memory):
    """Notes which layers attend, and with what."""

    def __init__(self, inner: Memory, part: Backbone) -> None:
        self.inner, self.part = inner, part
        self.layers: list[int] = []
        self.shapes: list[tuple[int, str, tuple[int, ...]]] = []

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, *more: Any, **named: Any) -> Tensor:
        if layer not in range(self.part.spec.layers):
            fail("backbone-attend", self.part, f"Layer {layer} attends; its spec has {self.part.spec.layers} layers.")
        self.layers.append(layer)
        self.shapes += [(layer, name, tuple(each.shape)) for name, each in (("q", q), ("k", k), ("v", v))]
        return self.inner.attend(layer, q, k, v, *more, **named)

    def __getattribute__(self, name: str) -> Any:
        if name in ("now", "carry", "cross", "history"):
            return getattr(object.__getattribute__(self, "inner"), name)
        return object.__getattribute__(self, name)
