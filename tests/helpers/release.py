"""A small text encoder, tokenizer and VAE in exactly the layouts that Wan's are published in."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import UMT5Config, UMT5EncoderModel

from rollforge.backbones.wan.codec import WanVAE

LETTERS = "abcdefghijklmnopqrstuvwxyz"
ORIGINAL = "models_t5_umt5-xxl-enc-bf16.pth"


class Release(NamedTuple):
    """One small encoder in every layout."""

    diffusers: Path
    transformers: Path
    original: Path


PIECES = [
    *((token, 0.0) for token in ("<pad>", "</s>", "<unk>")),
    ("▁", -2.0),
    *((f"▁{word}", -1.0) for word in ("a", "red", "box")),
    *((each, -3.0) for each in LETTERS),
]


def write_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.Unigram(PIECES, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "extra_ids": 0}))


def sentencepiece() -> bytes:
    """The same tokenizer as a SentencePiece model: protocol buffers, written by hand."""

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    types = [3, 3, 2]
    made = b"".join(
        field(1, field(1, piece.encode()) + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind]))
        for (piece, score), kind in zip(PIECES, [*types, *[1] * (len(PIECES) - len(types))], strict=True)
    )
    return made + field(2, b"\x18\x01") + field(3, field(1, b"identity"))


def original_name(name: str) -> str:
    """transformers' name in the words of the Wan release."""
    for theirs, wan in (
        ("shared", "token_embedding"),
        ("encoder.final_layer_norm", "norm"),
        ("encoder.block", "blocks"),
        ("layer.0.SelfAttention.relative_attention_bias", "pos_embedding.embedding"),
        ("layer.0.SelfAttention", "attn"),
        ("layer.0.layer_norm", "norm1"),
        ("layer.1.layer_norm", "norm2"),
        ("layer.1.DenseReluDense.wi_0", "ffn.gate.0"),
        ("layer.1.DenseReluDense.wi_1", "ffn.fc1"),
        ("layer.1.DenseReluDense.wo", "ffn.fc2"),
    ):
        name = name.replace(theirs, wan)
    return name


def small_encoder(seed: int) -> UMT5EncoderModel:
    torch.manual_seed(seed)
    config = UMT5Config(
        vocab_size=40, d_model=24, d_kv=8, d_ff=40, num_layers=3, num_heads=2, feed_forward_proj="gated-gelu"
    )
    model = UMT5EncoderModel(config).eval()
    for value in model.parameters():  # norms too, whose weights are all 1 in a new model
        torch.nn.init.normal_(value, mean=float(value.ndim == 1), std=0.4)
    return model


def write_release(folder: Path, seed: int = 0) -> Release:
    model = small_encoder(seed)
    model.save_pretrained(folder / "diffusers" / "text_encoder", max_shard_size="10KB")
    write_tokenizer(folder / "diffusers" / "tokenizer")
    model.save_pretrained(folder / "transformers")
    shutil.copytree(folder / "diffusers" / "tokenizer", folder / "transformers", dirs_exist_ok=True)
    shutil.copytree(folder / "diffusers" / "tokenizer", folder / "original" / "google" / "umt5-xxl")
    state = {original_name(k): v for k, v in model.state_dict().items() if k != "encoder.embed_tokens.weight"}
    torch.save(state, folder / "original" / ORIGINAL)
    return Release(folder / "diffusers", folder / "transformers", folder / "original" / ORIGINAL)


def write_vae(folder: Path) -> Path:
    """A VAE of 4 latent channels as diffusers saves it; returns its folder."""
    torch.manual_seed(0)
    codec = WanVAE(base_dim=4, z_dim=4, latents_mean=[0.1, -0.2, 0.3, -0.4], latents_std=[0.5, 1.0, 2.0, 3.0])
    codec.vae.save_pretrained(folder / "vae")
    return folder / "vae"
