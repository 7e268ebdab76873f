"""The weights that a Wan network is built from: a checkpoint, perhaps with LoRAs, or none."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
from torch import nn

from rollforge.backbones.tensors import Tensors
from rollforge.backbones.wan.checkpoint import open_checkpoint
from rollforge.backbones.wan.config import config_of
from rollforge.backbones.wan.lora import Changes, attach, check, merge, open_lora, separable
from rollforge.backbones.wan.sizes import Sizes, shown
from rollforge.backbones.weights import assign_weights, named
from rollforge.devices import default_device, working_dtype
from rollforge.errors import UserError
from rollforge.ranges import Finite, UserPath

DType = Literal["auto", "bf16", "fp16", "fp32"]
LoRAMode = Literal["merge", "live"]
LoRA = UserPath | list[UserPath] | dict[UserPath, Finite]
"""One LoRA, several, or several with a strength for each."""

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Generator:
    """Opened weights, not yet read.

    ``weights`` is as the user has named them, ``found`` is empty where the network starts from random values, ``live``
    holds the changes of a LoRA that are to stay modules of their own, and ``config`` what ``config.json`` says.
    """

    what: str
    weights: str | None
    found: Tensors
    live: Changes
    config: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(
        cls, what: str, weights: str | None, ema: bool | None, lora: LoRA | None, alpha: float | None, mode: LoRAMode
    ) -> Self:
        """Opens what is named. Raises ``UserError``, which names ``what``, for weights that cannot be opened."""
        strengths = lora_strengths(lora, what)
        if named(weights) is None:
            if strengths:
                raise UserError(
                    f"{what}: the LoRA {next(iter(strengths))} changes trained weights; name them with weights."
                )
            return cls(what, weights, {}, ())
        checkpoint = open_checkpoint(str(weights), what, ema)
        found = checkpoint.tensors
        changes = tuple(
            change for file, strength in strengths.items() for change in open_lora(file, what, alpha, strength)
        )
        check(changes, {name: stored.shape for name, stored in found.items()}, what)
        live, merged = separable(changes, found) if mode == "live" else ((), changes)
        config = config_of(checkpoint.file, shown(found).get("dim"))
        return cls(what, weights, merge(found, merged, what), live, config)

    def sizes(self, **given: int | None) -> Sizes:
        """The sizes of the network: given, shown by the weights or said by their config, or published."""
        heads = self.config.get("heads") if given.get("heads") is None else given["heads"]
        return Sizes.resolve(self.what, self.found, **(given | {"heads": heads}))

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
        attach(model, self.live)


def lora_strengths(lora: LoRA | None, what: str) -> dict[str, float]:
    """The strength of each LoRA. Raises ``UserError`` for one that is not finite."""
    files = [lora] if isinstance(lora, str) else lora or []
    strengths = files if isinstance(files, dict) else dict.fromkeys(files, 1.0)
    if odd := [f"{file}: {strength}" for file, strength in strengths.items() if not math.isfinite(strength)]:
        raise UserError(
            f"{what}: the strength of the LoRA {odd[0]} is not a finite number; 1 adds it as it was trained."
        )
    return strengths
