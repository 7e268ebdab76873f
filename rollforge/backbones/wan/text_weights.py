"""The umT5 encoder of transformers with its weights, from transformers' own files or the original Wan release."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import torch

from rollforge.backbones.hub import first_line
from rollforge.backbones.scaled import scaled
from rollforge.backbones.tensors import Tensors, numbers, open_file
from rollforge.backbones.wan.sentencepiece_model import STORED
from rollforge.backbones.wan.text_files import WHO, TextFiles
from rollforge.backbones.weights import check_fit
from rollforge.errors import UserError
from rollforge.files.reading import CONFIG, read_json

LEFT_OUT = ("decoder.", "lm_head.", STORED, "logit_scale")  # of what may lie in a file with the encoder
EMBEDDING, EMBEDDING_TOO = "shared.weight", "encoder.embed_tokens.weight"  # one tensor under two names
PUBLISHED = 5_680_910_336  # parameters of umT5-xxl's encoder
OUTER = {"token_embedding": "shared", "norm": "encoder.final_layer_norm"}
BLOCK = {
    "norm1": "layer.0.layer_norm",
    "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}


def open_model(files: TextFiles, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Any:
    """The encoder with its weights, in their own dtype unless another is given, on a device.

    They are read one by one: no second copy is ever held.
    """
    from transformers import UMT5EncoderModel

    found = scaled({name: each for file in files.weights for name, each in open_file(file, WHO).items()}, WHO)
    found = {_name(name): each for name, each in found.items() if not name.startswith(LEFT_OUT)}
    where = files.config.parent if files.config else files.weights[0]
    if one := found.get(EMBEDDING) or found.get(EMBEDDING_TOO):
        found |= {EMBEDDING: one, EMBEDDING_TOO: one}
    config = _config(files.config) if files.config else _sizes(found, where)
    with torch.device("meta"):
        model = UMT5EncoderModel(config)
    check_fit(model.state_dict(), found, WHO, where)
    state = {name: numbers(each, WHO, dtype).to(device) for name, each in found.items() if name != EMBEDDING_TOO}
    model.load_state_dict(state | {EMBEDDING_TOO: state[EMBEDDING]}, assign=True)
    model.tie_weights()
    return model


def count_parameters(files: TextFiles) -> int:
    """Parameters of the encoder, by the shapes that its files name; no tensor is read."""
    found = {_name(name): stored for file in files.weights for name, stored in open_file(file, WHO).items()}
    if EMBEDDING in found:
        found.pop(EMBEDDING_TOO, None)
    return sum(prod(stored.shape) for name, stored in found.items() if not name.startswith(LEFT_OUT))


def _name(name: str) -> str:
    """A name of the original release in transformers' words; any other as it is."""
    outer, _, kind = name.rpartition(".")
    if outer in OUTER:
        return f"{OUTER[outer]}.{kind}"
    number, _, inner = outer.removeprefix("blocks.").partition(".")
    if outer.startswith("blocks.") and inner in BLOCK:
        return f"encoder.block.{number}.{BLOCK[inner]}.{kind}"
    return name


def _config(file: Path) -> Any:
    from transformers import UMT5Config

    try:
        content = read_json(file, CONFIG, "encoder's config")
        kind = content["model_type"]
        if kind == "umt5":
            return UMT5Config.from_dict(content)
    except Exception as error:  # a damaged file; what the library raises depends on the field
        raise UserError(f"UMT5: {file} is not a config of an encoder ({first_line(error)}); fetch it again.") from error
    raise UserError(
        f"UMT5: {file} describes a {kind} model; expected umt5: name the folder of Wan's text encoder with "
        "--model.conditioner.weights."
    )


def _sizes(found: Tensors, where: Path) -> Any:
    """The config of an encoder that comes without one, from the shapes of its weights."""
    from transformers import UMT5Config

    first = "encoder.block.0.layer"
    try:
        vocabulary, width = found[EMBEDDING].shape
        buckets, heads = found[f"{first}.0.SelfAttention.relative_attention_bias.weight"].shape
        ffn = found[f"{first}.1.DenseReluDense.wi_0.weight"].shape[0]
        inner = found[f"{first}.0.SelfAttention.q.weight"].shape[0]
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(
            f"UMT5: {where} holds no umT5 encoder (it has no fitting {first_line(error)}); expected "
            "models_t5_umt5-xxl-enc-bf16.pth: name it with --model.conditioner.weights."
        ) from error
    return UMT5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=inner // heads,
        d_ff=ffn,
        num_layers=1 + max(int(name.split(".")[2]) for name in found if name.startswith("encoder.block.")),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
        feed_forward_proj="gated-gelu",
    )
