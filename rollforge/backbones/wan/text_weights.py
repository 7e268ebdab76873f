"""The umT5 encoder of transformers with its weights, from transformers' own files or the original Wan release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rollforge.backbones.tensors import open_file
from rollforge.backbones.wan.text_files import TextFiles, first_line
from rollforge.backbones.weights import check_fit
from rollforge.errors import UserError
from rollforge.safe_files import CONFIG, read_json

WHO = "UMT5"
EMBEDDING, EMBEDDING_TOO = "shared.weight", "encoder.embed_tokens.weight"  # one tensor under two names
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


def open_model(files: TextFiles) -> Any:
    """The encoder with its weights, as they are on disk: mapped, on the CPU, in their own dtype."""
    from transformers import UMT5EncoderModel

    state = {_name(name): value.read() for file in files.weights for name, value in open_file(file, WHO).items()}
    state = {name: value for name, value in state.items() if not name.startswith(("decoder.", "lm_head."))}
    state.setdefault(EMBEDDING, state.get(EMBEDDING_TOO, torch.empty(0)))
    state[EMBEDDING_TOO] = state[EMBEDDING]
    where = files.config.parent if files.config else files.weights[0]
    config = _config(files.config) if files.config else _sizes(state, where)
    with torch.device("meta"):
        model = UMT5EncoderModel(config)
    check_fit(model.state_dict(), state, WHO, where)
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    return model


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
        raise UserError(f"UMT5: {file} is no config of an encoder ({first_line(error)}); fetch it again.") from error
    raise UserError(
        f"UMT5: {file} describes a {kind} model; expected umt5: name the folder of Wan's text encoder with "
        "--model.conditioner.weights."
    )


def _sizes(state: dict[str, Tensor], where: Path) -> Any:
    """The config of an encoder that comes without one, from the shapes of its weights."""
    from transformers import UMT5Config

    first = "encoder.block.0.layer"
    try:
        vocabulary, width = state[EMBEDDING].shape
        buckets, heads = state[f"{first}.0.SelfAttention.relative_attention_bias.weight"].shape
        ffn = len(state[f"{first}.1.DenseReluDense.wi_0.weight"])
        inner = len(state[f"{first}.0.SelfAttention.q.weight"])
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"UMT5: {where} holds no umT5 encoder (it has no fitting {first_line(error)}); expected "
            "models_t5_umt5-xxl-enc-bf16.pth: name it with --model.conditioner.weights."
        ) from error
    return UMT5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=inner // heads,
        d_ff=ffn,
        num_layers=1 + max(int(name.split(".")[2]) for name in state if name.startswith("encoder.block.")),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
        feed_forward_proj="gated-gelu",
    )
