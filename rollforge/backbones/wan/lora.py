"""Adapters for Wan's weights: read as they are published, merged into the weights or kept next to them.

LongLive 1.3B is a base checkpoint and such a file, with rank and alpha both 256.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import compress, groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rollforge.backbones.tensors import (
    TORCH,
    Stored,
    Tensors,
    check_kind,
    index_of,
    numbers,
    open_file,
    open_torch,
    tensors_of,
)
from rollforge.backbones.wan.adapter import ENTRY, FACTORS, KINDS, Change, rank_of, scheme_of
from rollforge.backbones.wan.checkpoint import renamed
from rollforge.backbones.wan.locate import locate_lora
from rollforge.backbones.wan.lora_settings import Settings
from rollforge.backbones.wan.names import layout_of, spelled_out, to_diffusers, to_original, unwrapped
from rollforge.errors import UserError

NESTED = ("generator_lora", "generator_ema", "generator", "state_dict", "model")
PARAMETERS = {"weight": "weight", "bias": "bias", "scaled bias": "bias", "modulation": "modulation"}

Changes = tuple[Change, ...]


def open_lora(weights: str | Path, what: str, alpha: float | None = None, strength: float = 1.0) -> Changes:
    """Opens a LoRA file, a folder of PEFT or diffusers, or a hub name.

    Args:
        weights: what the user has named.
        what: who is asking, for errors.
        alpha: goes before the file's own: that of a tensor next to the matrices, of the header, of the config next to
            the file; where nothing says it, alpha is the rank.
        strength: what all of it is multiplied by.

    Raises:
        UserError: for anything but adapters of a known kind, which it names.
    """
    file = locate_lora(str(weights), what)
    file = index_of(file, what) or file
    settings = Settings.of(file, what)
    changes = tuple(
        change
        for module, factors in _modules(_opened(file, what), file, what).items()
        for change in _changes(module, factors, settings, file, what, alpha, strength)
    )
    if not changes:
        raise UserError(f"{what}: {file} holds alphas and nothing to merge; fetch or export it again.")
    return changes


def merge(tensors: Tensors, changes: Sequence[Change], what: str) -> Tensors:
    """The same weights with the changes added in float32, when they are read."""
    check(changes, {name: stored.shape for name, stored in tensors.items()}, what)
    changed = {}
    for name, those in groupby(sorted(changes, key=lambda each: each.name), lambda each: each.name):
        changed[name] = replace(tensors[name], read=partial(_merged, tensors[name], tuple(those), what))
    return tensors | changed


def check(changes: Sequence[Change], shapes: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Raises ``UserError`` for a change of a parameter that the model does not have, or has in another shape."""
    for change in changes:
        change.check(shapes.get(change.name), what)


def separable(changes: Sequence[Change], tensors: Tensors) -> tuple[Changes, Changes]:
    """Those changes that can be modules next to a linear layer, and the others."""
    apart = [change.is_pair and len(tensors[change.name].shape) == 2 for change in changes]
    return tuple(compress(changes, apart)), tuple(compress(changes, (not each for each in apart)))


def attach(model: nn.Module, changes: Sequence[Change]) -> None:
    """Keeps pairs of matrices as modules next to the weights they change, in the weights' dtype."""
    what = type(model).__name__
    for name, those in groupby(sorted(changes, key=lambda each: each.name), lambda each: each.name):
        module = name.removesuffix(".weight")
        outer, _, inner = module.rpartition(".")
        adapted = AdaptedLinear(model.get_submodule(module), tuple(those), what)
        setattr(model.get_submodule(outer), inner, adapted)


class AdaptedLinear(nn.Linear):
    """A linear layer and its adapters: the same parameters under the same names, and ``lora_A`` and ``lora_B``.

    Several adapters become one, whose rank is the sum of theirs.
    """

    def __init__(self, layer: Any, changes: Changes, what: str) -> None:
        dtype, sizes = layer.weight.dtype, (layer.in_features, layer.out_features)
        super().__init__(*sizes, bias=layer.bias is not None, device="meta")
        self.weight, self.bias, self.scale = layer.weight, layer.bias, changes[0].scale
        down = torch.cat([numbers(change.factors["down"], what, torch.float32) for change in changes])
        up = [numbers(change.factors["up"], what, torch.float32) for change in changes]
        if len(changes) > 1:
            up, self.scale = [change.scale * part for change, part in zip(changes, up, strict=True)], 1.0
        self.lora_A = nn.Linear(sizes[0], len(down), bias=False, device="meta")
        self.lora_B = nn.Linear(len(down), sizes[1], bias=False, device="meta")
        self.lora_A.weight = nn.Parameter(down.to(dtype))
        self.lora_B.weight = nn.Parameter(torch.cat(up, dim=1).to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.scale * self.lora_B(self.lora_A(x))


def _merged(weight: Stored, changes: Changes, what: str) -> Tensor:
    value = weight.read().float()
    for change in changes:
        value += change.delta(weight.shape, what)
    return value


def _opened(file: Path, what: str) -> Tensors:
    check_kind(file, what)
    if file.suffix not in TORCH:
        return open_file(file, what)
    content = open_torch(file, what)
    nested = next((key for key in NESTED if isinstance(content.get(key), dict)), None)
    return tensors_of(content[nested] if nested else content, file, what)


def _modules(tensors: Tensors, file: Path, what: str) -> dict[str, dict[str, Stored]]:
    """The factors of each module, by its original name."""
    bare = renamed(tensors, {name: spelled_out(unwrapped(name)) for name in tensors}, what)
    split = {}
    for name, stored in bare.items():
        entry = ENTRY.fullmatch(name)
        if entry is None or scheme_of(name):
            raise _foreign(name, stored.name, file, what)
        split[name] = (
            entry[1],
            next(part for part, present in zip(FACTORS.values(), entry.groups()[1:], strict=True) if present),
        )
    theirs = layout_of(f"{module}.weight" for module, _ in split.values()) == "diffusers"
    found: dict[str, dict[str, Stored]] = {}
    for name, (module, part) in split.items():
        found.setdefault(to_original(module) if theirs else module, {})[part] = bare[name]
    return found


def _changes(
    module: str,
    factors: dict[str, Stored],
    settings: Settings,
    file: Path,
    what: str,
    alpha: float | None,
    strength: float,
) -> list[Change]:
    """The changes of the parameters of one module."""
    plain = {part: stored for part, stored in factors.items() if part in PARAMETERS}
    matrices = {part: stored for part, stored in factors.items() if part not in (*plain, "alpha")}
    _check_matrices(module, matrices, file, what)
    if alpha is None and "alpha" in factors:
        alpha = float(numbers(factors["alpha"], what, torch.float32).reshape(-1)[0])
    scale = strength * settings.scale((module, to_diffusers(module)), rank_of(matrices), alpha)
    changes = [Change(f"{module}.weight", matrices, scale)] if matrices else []
    for part, stored in plain.items():
        factor = scale if part == "scaled bias" else strength
        changes.append(Change(f"{module}.{PARAMETERS[part]}", {part: stored}, factor))
    return changes


def _check_matrices(module: str, matrices: dict[str, Stored], file: Path, what: str) -> None:
    if not matrices or frozenset(matrices) in KINDS:
        return
    shapes = " and ".join(f"{part} {list(stored.shape)}" for part, stored in matrices.items())
    raise UserError(
        f"{what}: {file} holds {shapes} for {module}; expected lora_A [rank, in] and lora_B [out, rank], or all the "
        "matrices of LoHa or LoKr: fetch or export it again."
    )


def _foreign(name: str, given: str, file: Path, what: str) -> UserError:
    if kind := scheme_of(name):
        return UserError(
            f"{what}: {file} holds {given}, which is {kind} and cannot be merged here; merge it into the weights with "
            "the program that made it, or take a LoRA, LoHa or LoKr."
        )
    return UserError(
        f"{what}: {file} holds {given}, which is not part of a LoRA; expected names such as "
        "blocks.0.self_attn.q.lora_A.weight."
    )
