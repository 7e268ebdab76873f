"""Low-rank adapters for Wan's linear layers: read from PEFT's names, merged into the weights or kept beside them.

LoRA (arXiv 2106.09685) adds ``alpha / rank * up @ down`` to a weight. LongLive 1.3B is a base checkpoint and such a
file, with rank and alpha both 256.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rollforge.backbones.tensors import (
    TORCH,
    Stored,
    Tensors,
    numbers,
    open_safetensors,
    open_torch,
    tensors_of,
)
from rollforge.backbones.wan.checkpoint import renamed
from rollforge.backbones.wan.names import layout_of, to_original, unwrapped
from rollforge.errors import UserError
from rollforge.safe_files import CONFIG, read_json

NESTED = ("generator_lora", "generator_ema", "generator", "state_dict", "model")
PARTS = {"lora_A": "down", "lora_down": "down", "lora_B": "up", "lora_up": "up"}
ENTRY = re.compile(rf"(.+)\.({'|'.join(PARTS)})(?:\.\w+)?\.weight")
SCHEMES = ("use_rslora", "use_dora", "alpha_pattern")  # of PEFT, with another arithmetic


@dataclass(frozen=True)
class Adapter:
    """What is added to one weight ``[out, in]``: ``scale * up @ down`` of ``[out, rank]`` and ``[rank, in]``."""

    down: Stored
    up: Stored
    scale: float

    def delta(self, what: str) -> Tensor:
        """The change of the weight ``[out, in]``, in float32."""
        up, down = (numbers(part, what, torch.float32) for part in (self.up, self.down))
        return self.scale * (up @ down)


Adapters = dict[str, Adapter]
"""Adapters by the original name of their module."""


def open_lora(file: str | Path, what: str, alpha: float | None = None) -> Adapters:
    """Opens a LoRA file. ``alpha`` is the given one, else the file's or its ``adapter_config.json``'s, else the rank.

    Raises ``UserError`` for a file that holds anything but pairs of matrices.
    """
    path = Path(file).expanduser()
    tensors = _bare(_opened(path, what), what)
    alphas = {name.removesuffix(".alpha"): stored for name, stored in tensors.items() if name.endswith(".alpha")}
    beside = _configured(path, what)
    parts: dict[str, dict[str, Stored]] = {}
    for name, stored in tensors.items():
        if found := ENTRY.fullmatch(name):
            parts.setdefault(found[1], {})[PARTS[found[2]]] = stored
        elif not name.endswith(".alpha"):
            raise UserError(
                f"{what}: {path} holds {stored.name}, which is no part of a LoRA; expected names such as "
                "blocks.0.self_attn.q.lora_A.weight."
            )
    adapters: Adapters = {}
    for module, pair in parts.items():
        rank = _rank(module, pair, path, what)
        known = float(numbers(alphas[module], what).reshape(-1)[0]) if module in alphas else beside
        chosen = next((each for each in (alpha, known) if each is not None), float(rank))
        adapters[module] = Adapter(pair["down"], pair["up"], chosen / rank)
    return adapters


def merge(tensors: Tensors, adapters: Adapters, file: str | Path, what: str) -> Tensors:
    """The same weights with the adapters added in float32, when they are read."""
    check(adapters, {name: stored.shape for name, stored in tensors.items()}, file, what)
    changed = {}
    for module, adapter in adapters.items():
        weight = tensors[f"{module}.weight"]
        changed[f"{module}.weight"] = replace(weight, read=partial(_merged, weight, adapter, what))
    return tensors | changed


def attach(model: nn.Module, adapters: Adapters, file: str | Path) -> None:
    """Keeps the adapters as modules beside the weights they change, in the weights' dtype."""
    what = type(model).__name__
    check(adapters, {name: tuple(value.shape) for name, value in model.state_dict().items()}, file, what)
    for module, adapter in adapters.items():
        outer, _, name = module.rpartition(".")
        setattr(model.get_submodule(outer), name, AdaptedLinear(model.get_submodule(module), adapter, what))


def check(adapters: Adapters, shapes: dict[str, tuple[int, ...]], file: str | Path, what: str) -> None:
    """Raises ``UserError`` for an adapter of no weight of the model, or of one with another shape."""
    for module, adapter in adapters.items():
        shape, wanted = (adapter.up.shape[0], adapter.down.shape[1]), shapes.get(f"{module}.weight")
        if shape != wanted:
            has = f"is {list(wanted)} in the model" if wanted else "is not in the model"
            raise UserError(
                f"{what}: the LoRA {file} changes {module}.weight as {list(shape)}, which {has}; take the one that was "
                "made for these weights."
            )


class AdaptedLinear(nn.Linear):
    """A linear layer and its adapter: the same parameters under the same names, and ``lora_A`` and ``lora_B``."""

    def __init__(self, layer: Any, adapter: Adapter, what: str) -> None:
        rank, dtype = adapter.down.shape[0], layer.weight.dtype
        sizes = layer.in_features, layer.out_features
        super().__init__(*sizes, bias=layer.bias is not None, device="meta")
        self.weight, self.bias, self.scale = layer.weight, layer.bias, adapter.scale
        self.lora_A = nn.Linear(sizes[0], rank, bias=False, device="meta")
        self.lora_B = nn.Linear(rank, sizes[1], bias=False, device="meta")
        self.lora_A.weight = nn.Parameter(numbers(adapter.down, what, dtype))
        self.lora_B.weight = nn.Parameter(numbers(adapter.up, what, dtype))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.scale * self.lora_B(self.lora_A(x))


def _merged(weight: Stored, adapter: Adapter, what: str) -> Tensor:
    return weight.read().float() + adapter.delta(what)


def _opened(file: Path, what: str) -> Tensors:
    if file.suffix == ".safetensors":
        return open_safetensors(file, what)
    if file.suffix not in TORCH:
        raise UserError(f"{what}: {file} is no LoRA file; expected a .safetensors, .pt or .pth file.")
    content = open_torch(file, what)
    nested = next((key for key in NESTED if isinstance(content.get(key), dict)), None)
    return tensors_of(content[nested] if nested else content, file, what)


def _bare(tensors: Tensors, what: str) -> Tensors:
    """The tensors under the original names of their modules, ``.lora_A.weight`` and the like behind them."""
    names = {name: unwrapped(name) for name in tensors}
    if layout_of(names.values()) == "diffusers":
        names = {name: _original(bare) for name, bare in names.items()}
    return renamed(tensors, names, what)


def _original(name: str) -> str:
    module, dot, rest = name.partition(".lora_")
    if not dot:
        module, dot, rest = name.partition(".alpha")
    return to_original(module) + dot + rest


def _rank(module: str, pair: dict[str, Stored], file: Path, what: str) -> int:
    absent: Iterable[str] = [part for part in ("down", "up") if part not in pair]
    shapes = [list(pair[part].shape) for part in ("down", "up") if part in pair]
    if absent or [len(shape) for shape in shapes] != [2, 2] or shapes[0][0] != shapes[1][1]:
        raise UserError(
            f"{what}: {file} holds {' and '.join(map(str, shapes))} for {module}; expected lora_A [rank, in] and "
            "lora_B [out, rank]: fetch or export it again."
        )
    return int(shapes[0][0])


def _configured(file: Path, what: str) -> float | None:
    """The alpha that PEFT's config beside the file gives."""
    config = file.with_name("adapter_config.json")
    if not config.is_file():
        return None
    try:
        content = read_json(config, CONFIG, "LoRA's config")
        alpha, other = float(content["lora_alpha"]), [name for name in SCHEMES if content.get(name)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{what}: {config} is no config of a LoRA ({error}); fetch it again.") from error
    if other:
        raise UserError(f"{what}: {config} asks for {other[0]}, which is not known here; merge it with PEFT first.")
    return alpha
