"""The stage after the codec at work on one video: checked, saved and restored."""

from __future__ import annotations

from torch import Tensor

from rollforge.borders import WrongAnswer, check_pixels
from rollforge.errors import attribute_errors
from rollforge.finish.base import Finish, FinishStream, finished_size
from rollforge.state import State, copied


class FinishedVideo:
    """Finishes a video block by block; does nothing without a stage.

    Args:
        stage: the stage, if there is one.
        state: a state to resume from, as ``state_dict`` returned it.
    """

    def __init__(self, stage: Finish | None, state: State | None = None) -> None:
        self.stage = stage
        self.stream: FinishStream | None = None
        if stage is not None:
            with attribute_errors("finish", stage, "starting a video"):
                self.stream = stage.stream()
            if not isinstance(self.stream, FinishStream):
                raise WrongAnswer("finish", stage, self.stream, "from stream()", "a FinishStream")
            with attribute_errors("finish", stage, "restoring its state"):
                if state:
                    self.stream.load_state_dict(copied(state))

    def __call__(self, frames: Tensor, when: str) -> Tensor | None:
        """Decoded frames ``[B, T, 3, H, W]`` to finished ones; None without a stage.

        Raises ``UserError`` for another number or size of frames, and for values that are not from 0 to 1.
        """
        if self.stage is None or self.stream is None:
            return None
        weight = next(self.stage.parameters(), frames)
        width, height = finished_size(self.stage, (frames.shape[-1], frames.shape[-2]))
        with attribute_errors("finish", self.stage, when):
            finished = self.stream(frames.to(weight.device).clamp(0, 1))
        return check_pixels("finish", self.stage, finished, when, (*frames.shape[:2], 3, height, width), frames)

    def state_dict(self) -> State:
        """What later blocks depend on; empty without a stage."""
        if self.stream is None:
            return {}
        with attribute_errors("finish", self.stage, "in state_dict"):
            state: State = copied(self.stream.state_dict())
            return state
