"""Latents of training clips, encoded once and reused."""

from __future__ import annotations

import logging
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.data import Dataset

from rollforge.data.clip_store import ClipStore
from rollforge.errors import UserError
from rollforge.pipeline import Pipeline
from rollforge.snapshots.identity import fingerprint

log = logging.getLogger(__name__)

EVERY = 100
"""Clips between two messages."""


class KeyedClips(Protocol):
    """A dataset whose clips are always the same, and whose keys are known without reading video."""

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """What the frames of a clip depend on."""

    def caption(self, index: int) -> str:
        """Its caption. Raises ``UserError`` where it cannot be read."""

    def clip(self, index: int) -> dict[str, Any]:
        """The clip itself, never a replacement. Raises ``UserError`` where it cannot be read."""


class EncodedClips(Dataset[dict[str, Any]]):
    """Clips of another data set as ``latents`` ``[F, C, h, w]`` and ``caption``. Made by ``encoded``."""

    def __init__(self, clips: KeyedClips, store: ClipStore, names: dict[int, str]) -> None:
        self.clips, self.store, self.names = clips, store, sorted(names.items())

    def checked(self) -> EncodedClips:
        """Those clips whose latents are there. Raises ``UserError`` for damaged latents, and where there are none."""
        self.names = [(number, name) for number, name in self.names if self.store.holds(name)]
        if not self.names:
            raise UserError(f"Not one training clip could be encoded into {self.store.folder}, as the warnings say.")
        self.store.check(name for _, name in self.names)
        return self

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, name = self.names[index]
        _, tensors = self.store.read(name)
        clip = {"latents": tensors["latents"], "caption": self.clips.caption(number)}
        source = getattr(self.clips, "source", None)
        return clip if source is None else clip | {"source": source(number)}


def encoded(clips: Any, pipeline: Pipeline, folder: Path, rank: int = 0, processes: int = 1) -> EncodedClips:
    """Encodes clips whose latents are not in ``folder`` yet. A clip that cannot be read is named and left out.

    Of several processes each encodes its share; the caller waits for all, and then calls ``checked``.

    Args:
        clips: a ``KeyedClips``.
        pipeline: with the codec.
        folder: of the latents. Other clips and codecs may have theirs in it.
        rank: of this process.
        processes: of the run.

    Raises:
        UserError: for a data set without keys.
    """
    if not all(hasattr(clips, name) for name in ("key", "caption", "clip")):
        raise UserError(
            f"data.latent_cache keeps latents of clips that are always the same, and {type(clips).__name__} does not "
            "say so of its own (key, caption, clip); take VideoClips, or leave latent_cache out."
        )
    codec = f"{type(pipeline.codec).__qualname__} {fingerprint(pipeline.codec)}"
    store = ClipStore(folder, "cached latent", "remove it, and the next fit encodes its clip again", ("latents",))
    names = {n: blake2b(f"{codec} {clips.key(n)}".encode(), digest_size=16).hexdigest() for n in range(len(clips))}
    missing = [n for n, name in names.items() if n % processes == rank and not store.holds(name)]
    if missing:
        log.info("Encoding %s of %s clips into %s.", len(missing), len(names), folder)
    for count, n in enumerate(missing, 1):
        try:
            video = clips.clip(n)["video"]
            clips.caption(n)
        except UserError as error:
            log.warning("%s It is left out of the training clips.", error)
            continue
        latents = pipeline.encode(torch.as_tensor(video)[None].to(pipeline.device))[0]
        store.write(names[n], {}, {"latents": latents.cpu()})
        if count % EVERY == 0:
            log.info("%s of %s clips are encoded.", count, len(missing))
    return EncodedClips(clips, store, names)
