"""The conditioner: the name of a shape becomes a class."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rollforge.backbones.base import Condition, Conditioner
from rollforge.errors import UserError
from rollforge_frames.shapes import SHAPES

CLASSES = ("", *SHAPES)  # the empty prompt is a class of its own: guidance leads away from it


class ShapeNames(Conditioner):
    """The class of each prompt, which is the name of a shape or empty."""

    examples = SHAPES[:2]

    def check(self, prompts: Sequence[str]) -> None:
        for prompt in prompts:
            if prompt.strip() not in CLASSES:
                raise UserError(f"ShapeNames knows {', '.join(SHAPES)} and the empty prompt, not {prompt!r:.60}.")

    def forward(self, prompts: Sequence[str]) -> Condition:
        self.check(prompts)
        classes = [CLASSES.index(prompt.strip()) for prompt in prompts]
        no_text = torch.zeros(len(classes), 1, 1)
        # One class for all frames, [B, 1]. Numbers that are not floats keep their type in every precision.
        return Condition(str(classes), no_text, {"shape": torch.tensor(classes)[:, None]})
