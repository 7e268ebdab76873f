"""Wan's text features: prompts through the umT5-xxl encoder, which is in memory only while a new prompt is encoded.

Facts: Wan 2.1 technical report (arXiv 2503.20314), section 4.2; the cleaning of prompts is that of the Wan release.
"""

from __future__ import annotations

import html
import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn import functional

from rollforge.backbones.base import Condition, Conditioner
from rollforge.backbones.wan.text_cache import TextCache, digest, key
from rollforge.backbones.wan.text_encoder import TextEncoder, release
from rollforge.backbones.wan.text_files import TextFiles, locate
from rollforge.backbones.wan.text_weights import PUBLISHED, count_parameters
from rollforge.devices import default_device, working_dtype
from rollforge.errors import UserError
from rollforge.ranges import Range, UserPath

log = logging.getLogger(__name__)

RELEASE = "Wan-AI/Wan2.1-T2V-1.3B"
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class UMT5(Conditioner):
    """Features of the umT5-xxl encoder, ``[B, length, 4096]`` on the CPU; zeros after the end of each prompt.

    Features are cached on disk. For a new prompt the encoder (11 GB) is loaded; it also encodes all other prompts that
    ``check`` was called with, and is freed before ``forward`` returns. It is never part of this module's state.

    Args:
        weights: a folder in the diffusers layout (``text_encoder/`` and ``tokenizer/``), a folder that transformers
            saved, a folder of the original Wan release, the release's ``models_t5_umt5-xxl-enc-bf16.pth`` itself, or
            a Hugging Face id of one of these.
        tokenizer: a tokenizer's folder or Hugging Face id; default: next to the weights (for a lone ``.pth``:
            ``google/umt5-xxl``).
        length: text tokens. A longer prompt is cut to it, with a warning.
        device: where the encoder runs, such as ``cpu`` or ``cuda:1``; ``auto`` is ``cuda`` where there is one.
        dtype: of the encoder and the features; ``auto`` is bf16 on a CUDA device that has it, else fp32.
        cache: folder of the cached features. Default: ``rollforge/text`` in the user's cache folder.

    Raises:
        UserError: for a device or a dtype that does not exist.
    """

    def __init__(
        self,
        weights: UserPath = RELEASE,
        tokenizer: UserPath | None = None,
        length: Annotated[int, Range(1, 65_536)] = 512,
        device: str = "auto",
        dtype: Literal["auto", "bf16", "fp32"] = "auto",
        cache: UserPath | None = None,
    ) -> None:
        super().__init__()
        if dtype not in ("auto", *DTYPES):
            raise UserError(f"UMT5: dtype is {dtype!r}, expected auto, bf16 or fp32.")
        if device != "auto":
            _device(device)
        self.weights, self.tokenizer, self.length = weights, tokenizer, length
        self.device, self.dtype = device, dtype
        self.cache = TextCache(cache)
        self._files: TextFiles | None = None
        self._expected: dict[str, None] = {}

    @property
    def files(self) -> TextFiles:
        """The files of the encoder; looked up, and downloaded if need be, when first asked for."""
        if self._files is None:
            self._files = locate(self.weights, self.tokenizer)
        return self._files

    @property
    def runs_on(self) -> tuple[torch.device, torch.dtype]:
        """Device and dtype of the encoder on this machine."""
        device = default_device() if self.device == "auto" else _device(self.device)
        if not _is_here(device):
            raise UserError(f"UMT5: there is no device {device} here; expected auto, cpu, or a GPU that torch sees.")
        return device, working_dtype(device) if self.dtype == "auto" else DTYPES[self.dtype]

    def check(self, prompts: Sequence[str]) -> None:
        """Raises ``UserError`` for missing packages, files, devices or a cache that cannot be written to.

        Loads nothing. Stores the prompts, so that the encoder is loaded once for all of them.
        """
        _need("transformers", "ftfy")
        _ = self.runs_on, self.files
        self.cache.check()
        self._expected |= dict.fromkeys(map(clean, prompts))

    def encoder_memory(self, prompts: Sequence[str], cuda: bool) -> Mapping[str, int]:
        """As in ``Conditioner``; that of the published encoder where its files are not there."""
        device = ("cuda:0" if cuda else "cpu") if self.device == "auto" else _named(self.device)
        dtype = working_dtype(device) if self.dtype == "auto" else DTYPES[self.dtype]
        try:
            keys = [key(clean(prompt), self.files.identity, self.length, dtype) for prompt in prompts]
            if all(map(self.cache.holds, keys)):
                return {}
            parameters = count_parameters(self.files)
        except UserError:
            parameters = PUBLISHED
        return {device: parameters * dtype.itemsize}

    @torch.no_grad()
    def forward(self, prompts: Sequence[str]) -> Condition:
        wanted = [clean(prompt) for prompt in prompts]
        found = {prompt: self._kept(prompt) for prompt in dict.fromkeys(wanted)}
        if missing := [prompt for prompt, features in found.items() if features is None]:
            later = [prompt for prompt in self._expected if prompt not in found and self._kept(prompt) is None]
            found |= self._encode(missing, later)
        embeds = torch.stack([self._padded(found[prompt]) for prompt in wanted])
        return Condition(digest(embeds), embeds)

    def _kept(self, prompt: str) -> Tensor | None:
        return self.cache.get(self._key(prompt))

    def _key(self, prompt: str) -> str:
        return key(prompt, self.files.identity, self.length, self.runs_on[1])

    def _encode(self, prompts: Sequence[str], later: Sequence[str]) -> dict[str, Tensor]:
        """Encodes and caches both; returns the features ``[n, D]`` of ``prompts``. Leaves no encoder behind."""
        _need("transformers")
        self.cache.check()
        device, dtype = self.runs_on
        log.info("Loading the umT5 encoder (%s, %s) for %d new prompts.", device, dtype, len(prompts) + len(later))
        try:
            return self._encode_with(TextEncoder(self.files, self.length, device, dtype), prompts, later)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"UMT5: the encoder does not fit into the memory of {device} ({dtype}); "
                "encode on the CPU with --model.conditioner.device cpu, or with --model.conditioner.dtype bf16."
            ) from error
        finally:
            release(device)
            log.info("Freed the umT5 encoder.")

    def _encode_with(self, encoder: TextEncoder, prompts: Sequence[str], later: Sequence[str]) -> dict[str, Tensor]:
        features = {}
        for prompt in (*prompts, *later):
            made = encoder(prompt)
            self.cache.put(self._key(prompt), made, prompt)
            if prompt in prompts:
                features[prompt] = made
        return features

    def _padded(self, features: Tensor | None) -> Tensor:
        assert features is not None
        return functional.pad(features, (0, 0, 0, self.length - len(features)))


def clean(prompt: str) -> str:
    """Repairs broken Unicode, resolves HTML entities (twice) and turns every run of whitespace into one blank."""
    _need("ftfy")
    import ftfy

    return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split())


def _is_here(device: torch.device) -> bool:
    if device.type == "cuda":  # without starting CUDA, which a process that forks must not have done
        return (device.index or 0) < torch.cuda.device_count()
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        return False
    return True


def _need(*packages: str) -> None:
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise UserError(
            f"UMT5 needs the package {' and '.join(missing)}, which is not installed; install what Wan needs with: "
            "pip install 'rollforge[wan]'."
        )


def _named(name: str) -> str:
    """A device with its index, read from a tensor on it."""
    device = _device(name)
    return f"cuda:{device.index or 0}" if device.type == "cuda" else str(device)


def _device(name: str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UserError(f"UMT5: {name!r} is not a device; expected auto, cpu, cuda or cuda:0 and so on.") from error
