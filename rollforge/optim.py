"""Muon for weight matrices, AdamW for everything else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer


class MuonAdamW(Optimizer):
    """Torch's Muon on two-dimensional weights and AdamW on the rest, at one learning rate.

    Muon's updates are scaled to the size of AdamW's ("Muon is scalable", arXiv 2502.16982), so that both share it.

    Args:
        params: what to train.
        lr: learning rate of both.
        weight_decay: of both.
        betas: of AdamW.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        kept = list(params)
        self.parts: tuple[Optimizer, Optimizer] = (
            Muon([p for p in kept if p.ndim == 2], lr, weight_decay, adjust_lr_fn="match_rms_adamw"),
            AdamW([p for p in kept if p.ndim != 2], lr, betas, weight_decay=weight_decay),
        )
        super().__init__(kept, {"lr": lr})
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all parameters."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The states of both optimizers."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores both optimizers."""
        for part, kept in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(kept)
        self.param_groups = [group for part in self.parts for group in part.param_groups]
