"""DINO and CLIP through ``transformers``, out of a local folder and nowhere else.

A folder is what ``save_pretrained`` writes and the hub holds: ``config.json``, weights, ``preprocessor_config.json``.
The folder's own preprocessor resizes, crops and normalises.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rollforge.errors import UserError
from rollforge.files.reading import CONFIG as SIZE
from rollforge.files.reading import check_below, read_json
from rollforge.ranges import Count, UserPath
from rollforge_features.base import Features

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
LOCAL = {"local_files_only": True, "trust_remote_code": False}


class _Folder(Features):
    """A vision model of ``transformers`` that lies in a folder."""

    kinds: Sequence[str]  # model types that it can be
    spare: Sequence[str] = ()  # weights that may be missing, because nothing here uses them

    def __init__(self, weights: UserPath, device: str = "cpu", batch: Count = 16) -> None:
        self.weights, self.device, self.batch = weights, torch.device(device), batch
        self._check(Path(weights))
        self._processor, self._model = self._load()

    def embed(self, frames: Tensor) -> Tensor:
        parts = [self._some(piece) for piece in torch.split(frames.cpu(), self.batch)]
        return torch.cat(parts)

    @abstractmethod
    def _network(self) -> type[Any]:
        """The class of ``transformers`` whose weights the folder must hold."""

    @abstractmethod
    def _feature(self, output: Any) -> Tensor:
        """The vector of each frame, ``[T, D]``."""

    @torch.inference_mode()
    def _some(self, frames: Tensor) -> Tensor:
        images = list(frames.numpy())
        seen = self._processor(images=images, return_tensors="pt", input_data_format="channels_last")
        return self._feature(self._model(seen["pixel_values"].to(self.device))).float().cpu()

    def _check(self, folder: Path) -> None:
        """Raises ``UserError`` where this is not a folder of such a model."""
        part = type(self).__name__
        if not folder.is_dir():
            raise UserError(
                f"{part}: {self.weights} is not a folder on this machine, and nothing is downloaded; put "
                f"{CONFIG}, {PREPROCESSOR} and model.safetensors of a {' or '.join(self.kinds)} model there."
            )
        absent = [name for name in (CONFIG, PREPROCESSOR) if not (folder / name).exists()]
        if absent:
            raise UserError(f"{part}: {folder} lacks {' and '.join(absent)}; copy the whole folder of the model.")
        try:
            kind = read_json(folder / CONFIG, SIZE, "config").get("model_type")
        except AttributeError as error:
            raise UserError(f"{part}: {folder / CONFIG} cannot be read ({error}); copy it again.") from error
        if kind not in self.kinds:
            raise UserError(f"{part}: {folder} holds a {kind} model; it takes {', '.join(self.kinds)}.")

    def _load(self) -> tuple[Any, Any]:
        from transformers import AutoImageProcessor

        processors: Any = AutoImageProcessor  # ships without types
        try:
            check_below(Path(self.weights))
            processor = processors.from_pretrained(self.weights, **LOCAL)
            model, report = self._network().from_pretrained(
                self.weights, output_loading_info=True, dtype=torch.float32, **LOCAL
            )
        except Exception as error:  # transformers raises what its parts raise
            brief = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
            raise UserError(
                f"{type(self).__name__}: {self.weights} cannot be loaded ({brief}); copy the whole folder of the model."
            ) from error
        lost = sorted(k for k in report["missing_keys"] if not any(k.startswith(spare) for spare in self.spare))
        if lost:
            raise UserError(
                f"{type(self).__name__}: {self.weights} lacks {len(lost)} of the model's weights ({lost[0]}, ...), "
                "which would be random; copy the whole folder of the model."
            )
        return processor, model.eval().requires_grad_(False).to(self.device)


class Dino(_Folder):
    """The class token of a self-supervised vision transformer (DINO, DINOv2, DINOv3), after the last norm.

    Args:
        weights: the folder of the model.
        device: where it runs.
        batch: frames at a time.

    Raises:
        UserError: for a folder that is missing, incomplete or of another kind of model.
    """

    name = "dino"
    kinds = ("vit", "dinov2", "dinov2_with_registers", "dinov3_vit")
    spare = ("pooler.",)  # DINO of the first kind has none

    def _network(self) -> type[Any]:
        from transformers import AutoModel

        return AutoModel

    def _feature(self, output: Any) -> Tensor:
        token: Tensor = output.last_hidden_state[:, 0]
        return token


class Clip(_Folder):
    """The image embedding of a CLIP.

    Args:
        weights: the folder of a CLIP, or of its vision tower.
        device: where it runs.
        batch: frames at a time.
        projected: whether features are projected to the space shared with text, as CLIP is used by VBench. A vision
            tower that was saved without its projection needs false.

    Raises:
        UserError: for a folder that is missing, incomplete or of another kind of model.
    """

    name = "clip"
    kinds = ("clip", "clip_vision_model")

    def __init__(self, weights: UserPath, device: str = "cpu", batch: Count = 16, projected: bool = True) -> None:
        self.projected = projected
        super().__init__(weights, device, batch)

    def _network(self) -> type[Any]:
        from transformers import CLIPVisionModel, CLIPVisionModelWithProjection

        return CLIPVisionModelWithProjection if self.projected else CLIPVisionModel

    def _feature(self, output: Any) -> Tensor:
        vector: Tensor = output.image_embeds if self.projected else output.pooler_output
        return vector
