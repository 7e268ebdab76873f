"""The weights that a Wan network is built from: a checkpoint, perhaps with a LoRA, or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import nn

from rollforge.backbones.tensors import Tensors
from rollforge.backbones.wan.checkpoint import open_checkpoint
from rollforge.backbones.wan.lora import Adapters, attach, merge, open_lora
from rollforge.backbones.wan.sizes import Sizes
from rollforge.backbones.weights import assign_weights, named
from rollforge.devices import default_device, working_dtype
from rollforge.errors import UserError

DType = Literal["auto", "bf16", "fp16", "fp32"]
LoRAMode = Literal["merge", "live"]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Generator:
    """Opened weights, not yet read.

    ``weights`` and ``lora`` are as the user has named them, ``found`` is empty where the network starts from random
    numbers, and ``live`` holds the adapters that are to stay modules of their own.
    """

    what: str
    weights: str | None
    lora: str | None
    found: Tensors
    live: Adapters

    @classmethod
    def open(
        cls, what: str, weights: str | None, ema: bool | None, lora: str | None, alpha: float | None, mode: LoRAMode
    ) -> Self:
        """Opens what is named. Raises ``UserError``, said by ``what``, for what cannot be opened."""
        if named(weights) is None:
            if lora is not None:
                raise UserError(f"{what}: the LoRA {lora} changes trained weights; name them with weights.")
            return cls(what, weights, None, {}, {})
        found = open_checkpoint(str(weights), what, ema).tensors
        adapters = {} if lora is None else open_lora(lora, what, alpha)
        if mode == "live":
            return cls(what, weights, lora, found, adapters)
        return cls(what, weights, lora, merge(found, adapters, str(lora), what), {})

    def sizes(self, **given: int | None) -> Sizes:
        """The sizes of the network: given, shown by the weights, or published."""
        return Sizes.resolve(self.what, self.found, **given)

    def fill(self, model: nn.Module, dtype: DType) -> None:
        """Puts the weights into ``model``, which is on the meta device if there are any.

        ``auto`` is bf16 where there is a CUDA device that has it, else fp32; weights that are yet to be trained stay as
        they are.
        """
        automatic = working_dtype(default_device())
        if self.found:
            assign_weights(model, self.found, str(self.weights), DTYPES.get(dtype, automatic))
        elif self.weights or dtype != "auto":
            model.to(DTYPES.get(dtype, automatic))
        attach(model, self.live, str(self.lora))
