"""Text features cached on disk, one safetensors file per prompt, so that a large encoder is needed only once."""

from __future__ import annotations

import json
import logging
import os
from hashlib import blake2b
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from rollforge.errors import UserError
from rollforge.files.user_cache import user_cache

log = logging.getLogger(__name__)


def default_folder() -> Path:
    """``rollforge/text`` in the user's cache folder."""
    return user_cache("text")


def key(prompt: str, encoder: str, length: int, dtype: torch.dtype) -> str:
    """The cache key of a prompt's features."""
    return blake2b(json.dumps([prompt, encoder, length, str(dtype)]).encode(), digest_size=16).hexdigest()


def digest(features: Tensor) -> str:
    """Equal for equal values, shape and dtype, and only then."""
    hasher = blake2b(f"{features.dtype} {list(features.shape)}".encode(), digest_size=16)
    hasher.update(features.cpu().flatten().view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()


class TextCache:
    """Features ``[n, D]`` by key; n is the number of the prompt's tokens.

    Args:
        folder: where the files are. Default: ``default_folder()``. It is made when it is first written to.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = Path(folder).expanduser() if folder else default_folder()

    def get(self, key: str) -> Tensor | None:
        """The features cached under a key; None, with a warning, if the file is damaged."""
        file = self._file(key)
        if not file.is_file():
            return None
        try:
            with safe_open(file, "pt") as opened:
                features: Tensor = opened.get_tensor("features")
                recorded = (opened.metadata() or {}).get("digest")
        except (SafetensorError, OSError) as error:
            return _ignored(file, str(error))
        whole = features.ndim == 2 and recorded == digest(features)
        return features if whole else _ignored(file, "its content is not what was written")

    def holds(self, key: str) -> bool:
        """Whether features are cached under a key. Reads nothing."""
        return self._file(key).is_file()

    def put(self, key: str, features: Tensor, prompt: str) -> None:
        """Caches features under a key, atomically. Raises ``UserError`` if they cannot be written."""
        content = save({"features": features.contiguous()}, {"digest": digest(features), "prompt": prompt})
        partial = self.folder / f"{key}.{uuid4().hex}.partial"  # several processes may make the same features
        self.check()
        try:
            with partial.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._file(key))
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise self._unwritable(error.strerror) from error

    def check(self) -> None:
        """Makes the folder. Raises ``UserError`` where that fails or it cannot be written to."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error.strerror) from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise self._unwritable("permission denied")

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _unwritable(self, reason: str | None) -> UserError:
        return UserError(
            f"The cache of text features {self.folder} cannot be written to ({reason}); make room or give "
            "permission there, or choose another folder with --model.conditioner.cache."
        )


def _ignored(file: Path, reason: str) -> Tensor | None:
    log.warning("Ignoring the damaged text features %s (%s); they will be made again.", file, reason)
    return None
