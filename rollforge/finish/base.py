"""The contract of a stage after the codec, such as video super-resolution."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from rollforge.borders import check_size
from rollforge.errors import UserError, attribute_errors
from rollforge.files.reading import PIXELS, SIDE
from rollforge.ranges import Checked
from rollforge.state import State


class FinishStream(ABC):
    """One video being finished, block by block. Holds the state of the stage, so several can run at once."""

    @abstractmethod
    def __call__(self, frames: Tensor) -> Tensor:
        """The next decoded frames ``[B, T, 3, H, W]`` in 0..1 to as many finished ones, of the stage's ``pixel_size``.

        Runs without gradients.
        """

    @abstractmethod
    def state_dict(self) -> State:
        """What is carried over to the next frames; empty where nothing is."""

    @abstractmethod
    def load_state_dict(self, state: State) -> None:
        """Restores, on a new stream, what ``state_dict`` returned."""


class Finish(Checked, nn.Module, ABC):
    """Changes decoded frames before they are shown and written, perhaps to another size.

    Policies that encode pixels again get the frames as they were decoded, and so do metrics, unless
    ``model.measure_finished`` is true.

    ``Restoration`` trains a stage that has ``loss(decoded, frames)``: decoded frames ``[B, T, 3, h, w]`` and the true
    ones ``[B, T, 3, H, W]`` of its ``pixel_size``, both in 0..1, to named scalars; ``loss`` is the one to minimise.
    """

    weights: str | None
    """Source of the weights, set by a stage with parameters: a file or hub name, or ``random`` for random weights.

    ``None`` marks random weights that were not requested: ``predict`` and ``test`` refuse them.
    """

    takes_crops = False
    """Whether training may show it pieces of frames, as ``Multigrid`` does in stages below full size."""

    @abstractmethod
    def stream(self) -> FinishStream:
        """A new video to finish."""

    def pixel_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of finished frames, for those of decoded ones. Default: the same."""
        return width, height


def finished_size(stage: Finish, size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of finished frames, for those of decoded ones.

    Raises ``UserError`` for frames that no video here may have.
    """
    with attribute_errors("finish", stage, "reporting its pixel size"):
        answer = stage.pixel_size(*size)
    width, height = check_size("finish", stage, answer)
    if max(width, height) > SIDE or width * height > PIXELS:
        raise UserError(
            f"The finish {type(stage).__name__} would make frames of {width}x{height} pixels; a video has at most "
            f"{SIDE} a side and {PIXELS // 1_000_000} million in all, so enlarge less."
        )
    return width, height
