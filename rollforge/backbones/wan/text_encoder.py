"""The umT5 encoder with its prompts' tokenizer, from disk to features."""

from __future__ import annotations

import gc
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rollforge.backbones.hub import first_line
from rollforge.backbones.tensors import open_file
from rollforge.backbones.wan import sentencepiece_model
from rollforge.backbones.wan.text_files import TextFiles
from rollforge.backbones.wan.text_weights import open_model
from rollforge.errors import UserError
from rollforge.files.reading import check_below

log = logging.getLogger(__name__)


class TextEncoder:
    """Tokenizer and encoder, in memory as long as this object is.

    Args:
        files: where they lie.
        length: the most tokens of a prompt, its end included.
        device: where the encoder runs.
        dtype: of its weights and features.

    Raises:
        UserError: for files that are damaged, do not fit or do not belong together.
    """

    def __init__(self, files: TextFiles, length: int, device: torch.device, dtype: torch.dtype) -> None:
        self.files, self.length, self.device = files, length, device
        model = open_model(files, device, dtype)
        self.tokenizer = _open_tokenizer(files.tokenizer)
        self.model = model.to(device, dtype).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, prompt: str) -> Tensor:
        """Features ``[n, D]`` of a prompt's n tokens, on the CPU. They do not depend on any other prompt."""
        tokens = torch.tensor([self._tokens(prompt)], device=self.device)
        with torch.autocast(self.device.type, enabled=False):
            features = self.model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state[0].cpu()
        if not torch.isfinite(features).all():
            raise UserError(
                f"UMT5: the features of {prompt!r:.60} are not finite, so {self.files.weights[0]} is damaged; "
                "fetch it again."
            )
        return features

    def _tokens(self, prompt: str) -> list[int]:
        tokens: list[int] = self.tokenizer(prompt, truncation=True, max_length=self.length).input_ids
        known = self.model.get_input_embeddings().num_embeddings
        if not tokens or max(tokens) >= known:
            raise UserError(
                f"UMT5: the tokenizer in {self.files.tokenizer} does not belong to this encoder of {known} tokens; "
                "expected google/umt5-xxl: name its folder with --model.conditioner.tokenizer."
            )
        if len(tokens) == self.length and len(whole := self.tokenizer(prompt, verbose=False).input_ids) > self.length:
            log.warning("The prompt %.60r has %d tokens and is cut to %d.", prompt, len(whole), self.length)
        return tokens


def release(device: torch.device) -> None:
    """Gives the memory of what has just been dropped back."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _open_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder, or inside a file of weights."""
    from transformers import AutoTokenizer

    try:
        if folder.is_file():
            stored = open_file(folder, "UMT5")[sentencepiece_model.STORED]
            return sentencepiece_model.tokenizer(sentencepiece_model.parse(stored.read().numpy().tobytes()))
        check_below(folder)
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # what a damaged tokenizer raises depends on the file and on the library
        raise UserError(
            f"UMT5: {folder} holds no tokenizer that transformers can read ({first_line(error)}); fetch "
            "google/umt5-xxl again, or name another folder with --model.conditioner.tokenizer."
        ) from error
