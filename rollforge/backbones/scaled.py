"""Weights in 8 bits with a scale next to them, in the spellings that Wan is published in: their product, when read.

========================  ==========================================================================
``X.weight``, and          is
========================  ==========================================================================
``X.scale_weight``        ComfyUI's first spelling and musubi-tuner's, with a mark ``scaled_fp8``
``X.weight_scale``        ComfyUI's second one, with ``X.comfy_quant`` (JSON), and lightx2v's
========================  ==========================================================================

A scale is one number, one for each row, or one for each group of columns in a row (``[rows, groups, 1]``). Scales of
activations (``X.scale_input``, ``X.input_scale``) matter only to kernels that compute in 8 bits, and are left out.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rollforge.backbones.stored import Stored, Tensors, numbers
from rollforge.errors import UserError
from rollforge.files.reading import parse_json

MARK = "scaled_fp8"
SCALES = (".scale_weight", ".weight_scale")
UNUSED = (".scale_input", ".input_scale")
FORMAT = ".comfy_quant"
KNOWN = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise", "int8")
OTHER = {  # what else lies next to quantised weights, and whose it is
    ".weight_scale_2": "nvfp4",
    ".weight_scale_inv": "fp8 in blocks",
    ".absmax": "bitsandbytes 4 bits",
    ".quant_map": "bitsandbytes 4 bits",
    ".qweight": "GPTQ or AWQ",
    ".SCB": "bitsandbytes int8",
    ".proj_down": "Nunchaku 4 bits",
}
SMALL = (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8)


def scaled(tensors: Tensors, what: str) -> Tensors:
    """The same weights in full, without their scales and marks. Tensors in 8 bits without any scale stay as they are.

    Raises ``UserError`` for another quantisation, which it names, and for a scale that does not fit its weight.
    """
    _check_known(tensors, what)
    scales = {
        name.removesuffix(suffix) + ".weight": stored
        for suffix in SCALES for name, stored in tensors.items() if name.endswith(suffix)
    }  # fmt: skip
    left = {name: stored for name, stored in tensors.items() if not _beside(name)}
    for name, scale in scales.items():
        if name not in left or left[name].dtype not in SMALL:
            has = f"{name} is {_called(left[name].dtype)}" if name in left else f"there is no {name}"
            raise UserError(
                f"{what}: {scale.file} holds {scale.name}, the scale of an 8-bit weight, and {has}; fetch it again."
            )
        read = partial(_product, left[name], scale, what)
        left[name] = replace(left[name], dtype=torch.float32, read=read)
    if bare := [name for name, stored in left.items() if _lacks_scale(name, stored, bool(scales))]:
        raise UserError(
            f"{what}: {left[bare[0]].file} holds {bare[0]} as {_called(left[bare[0]].dtype)} without its scale, which "
            "other quantised weights in it have; fetch it again."
        )
    return left


def _check_known(tensors: Tensors, what: str) -> None:
    for name, stored in tensors.items():
        if (kind := next((format for suffix, format in OTHER.items() if name.endswith(suffix)), None)) or (
            name.endswith(FORMAT) and (kind := _format(stored)) not in KNOWN
        ):
            raise UserError(
                f"{what}: {stored.file} holds weights quantised as {kind} ({name}), whose scales are not read here; "
                "take the same model in bf16, fp16 or scaled fp8."
            )


def _format(mark: Stored) -> str:
    """The number format that a ``comfy_quant`` names."""
    try:
        comment: Any = parse_json(bytes(mark.read().to(torch.uint8).reshape(-1).tolist()[:4096]))
        return str(comment["format"])[:40]
    except (ValueError, KeyError, TypeError, AttributeError):
        return "something unknown"


def _beside(name: str) -> bool:
    return name.endswith((*SCALES, *UNUSED, FORMAT)) or name.rpartition(".")[2] == MARK


def _lacks_scale(name: str, stored: Stored, others: bool) -> bool:
    matrix = len(stored.shape) == 2 and name.endswith(".weight")
    return stored.dtype in SMALL and matrix and (others or stored.dtype is torch.int8)


def _called(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _product(weight: Stored, scale: Stored, what: str) -> Tensor:
    """The weight in full, float32."""
    factor, value = numbers(scale, what, torch.float32), numbers(weight, what, torch.float32)
    rows = len(value)
    if factor.numel() == 1:
        return value * factor.reshape(())
    if factor.numel() == rows:
        return value * factor.reshape(rows, *[1] * (value.ndim - 1))
    groups = factor.numel() // rows
    if factor.shape[:1] == (rows,) and factor.shape == (rows, groups, 1) and value[0].numel() % groups == 0:
        return (value.reshape(rows, groups, -1) * factor).reshape(value.shape)
    raise UserError(
        f"{what}: {scale.file} holds {scale.name} as {list(scale.shape)}, which does not scale a weight of "
        f"{list(weight.shape)}; expected one number, one for each row, or [rows, groups, 1]."
    )
