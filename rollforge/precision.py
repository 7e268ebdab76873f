"""What the names of a Trainer's precisions mean in torch."""

from __future__ import annotations

import torch

TRUE = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}
"""The dtype of weights, where a precision changes it."""
MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""The dtype of autocast, where a precision has it."""
