"""Low-rank adaptation (LoRA, arXiv 2106.09685) of a network in training, through the package ``peft``.

The weights of the chosen linear layers stay as they are; each gets two small matrices, ``W + alpha / rank B A``, and
only these are trained. Exported weights have them added in, under the names that the network had before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rollforge.backbones.base import Backbone
from rollforge.backbones.stored import Tensors
from rollforge.errors import UserError
from rollforge.ranges import Count, checked

T = TypeVar("T")
BASE, DOWN, UP, ALPHA = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight", ".adapter_alpha"
"""In the names of an adapted layer's tensors."""


@checked
@dataclass(frozen=True)
class LowRank:
    """Trains two small matrices next to each chosen linear layer, in place of its weights.

    Args:
        rank: columns of the one and rows of the other.
        alpha: their product is multiplied by ``alpha / rank``. Default: the rank.
        targets: linear layers, by the end of their names: ``self_attn.q`` is that of every block. Default: all linear
            layers.
    """

    rank: Count = 16
    alpha: Count | None = None
    targets: Sequence[str] | None = None

    def adapt(self, network: nn.Module) -> None:
        """Puts the matrices into a network. Raises ``UserError`` for a target that names no linear layer."""
        names, alpha = self._names(network), self.alpha or self.rank
        peft = _peft()
        config = peft.LoraConfig(r=self.rank, lora_alpha=alpha, target_modules=names)
        peft.inject_adapter_in_model(config, network)
        for name in names:  # so that a caller that has the tensors can add them together
            network.get_submodule(name).register_buffer(ALPHA[1:], torch.tensor(alpha))

    def _names(self, network: nn.Module) -> list[str]:
        """The linear layers to adapt."""
        linear = [name for name, each in network.named_modules() if isinstance(each, nn.Linear)]
        targets = linear if self.targets is None else self.targets
        for target in targets:
            if not any(_ends_with(name, target) for name in linear):
                ends = ", ".join(sorted({name.rpartition(".")[2] for name in linear})) or "another network"
                raise UserError(
                    f"LowRank.targets names {target}, and no linear layer of {type(network).__name__} ends so; "
                    f"choose from {ends}."
                )
        if not targets:
            raise UserError(f"LowRank has no linear layer of {type(network).__name__} to adapt; leave it out.")
        return [name for name in linear if any(_ends_with(name, target) for target in targets)]


def merged(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights with the low-rank matrices among them added in, under the names of the network without them."""
    found = _without(weights)
    for layer in _adapted(weights):
        parts = (weights[layer + end] for end in (f"{BASE}weight", DOWN, UP, ALPHA))
        found[f"{layer}.weight"] = _sum(*parts)
    return found


def merged_when_read(weights: Tensors) -> Tensors:
    """The same of weights in a file, each added up when it is read."""
    found = _without(weights)
    for layer in _adapted(weights):
        parts = [weights[layer + end] for end in (f"{BASE}weight", DOWN, UP, ALPHA)]
        read = partial(lambda parts: _sum(*(each.read() for each in parts)), parts)
        found[f"{layer}.weight"] = replace(parts[0], name=f"{layer}.weight", read=read)
    return found


def _adapted(weights: Iterable[str]) -> list[str]:
    """Names of the layers that have low-rank matrices."""
    return [name.removesuffix(ALPHA) for name in weights if name.endswith(ALPHA)]


def _without(weights: Mapping[str, T]) -> dict[str, T]:
    """Without the matrices, by the names of a network that has none."""
    return {name.replace(BASE, "."): value for name, value in weights.items() if not name.endswith((DOWN, UP, ALPHA))}


def _sum(weight: Tensor, down: Tensor, up: Tensor, alpha: Tensor) -> Tensor:
    return (weight.float() + up.float() @ down.float() * (int(alpha) / len(down))).to(weight)


def is_adapted(weights: Iterable[str]) -> bool:
    """Whether low-rank matrices are among weights with these names."""
    return bool(_adapted(weights))


def trainable(network: nn.Module) -> list[nn.Parameter]:
    """The weights that a network trains: all, but of adapted backbones in it only the low-rank matrices."""
    fixed = {id(weight) for each in network.modules() if isinstance(each, Backbone) for weight in _fixed(each)}
    return [weight for weight in network.parameters() if id(weight) not in fixed]


def set_trained(network: nn.Module, trained: bool) -> None:
    """Whether the weights that a network trains get gradients."""
    network.requires_grad_(False)
    for weight in trainable(network):
        weight.requires_grad_(trained)


def _fixed(network: Backbone) -> list[nn.Parameter]:
    if not is_adapted(name for name, _ in network.named_buffers()):
        return []
    return [weight for name, weight in network.named_parameters() if not name.endswith((DOWN, UP))]


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _peft() -> Any:
    """The package, whose import takes seconds."""
    try:
        return import_module("peft")
    except ImportError as error:
        raise UserError('LowRank needs the package peft; install it with pip install "rollforge[lora]".') from error
