"""A SentencePiece model as a tokenizer, such as ComfyUI puts into its umT5 files; needs no package sentencepiece.

Facts: the fields of ``sentencepiece_model.proto``, in the wire format of protocol buffers; how T5 splits text.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

STORED = "spiece_model"
"""The tensor (bytes) that holds it in a file of weights."""
PIECES, TRAINER, NORMALISER = 1, 2, 3  # fields of the model
TEXT, SCORE, TYPE = 1, 2, 3  # of a piece
MODEL_TYPE, UNIGRAM, CHARSMAP = 3, 1, 2
CONTROL, USER_DEFINED = 3, 4  # types of pieces
SPECIAL = ("<pad>", "</s>", "<unk>")  # the first pieces of umT5
BLANK = "▁"


@dataclass(frozen=True)
class Model:
    """Pieces with their scores and types, and the table by which text is normalised."""

    pieces: list[tuple[str, float]]
    types: list[int]
    charsmap: bytes


def parse(content: bytes) -> Model:
    """Reads a model. Raises ``ValueError`` for what is not a unigram model with T5's special pieces."""
    pieces, types, charsmap = [], [], b""
    for field, value in _fields(content):
        if field == PIECES:
            inner = dict(_fields(_raw(value)))
            pieces.append(
                (_raw(inner.get(TEXT, b"")).decode(), struct.unpack("<f", _raw(inner.get(SCORE, bytes(4))))[0])
            )
            types.append(inner.get(TYPE, 1))
        elif field == TRAINER and dict(_fields(_raw(value))).get(MODEL_TYPE, UNIGRAM) != UNIGRAM:
            raise ValueError("it is not a unigram model")
        elif field == NORMALISER:
            charsmap = _raw(dict(_fields(_raw(value))).get(CHARSMAP, b""))
    if tuple(piece for piece, _ in pieces[: len(SPECIAL)]) != SPECIAL:
        raise ValueError(f"its first pieces are not {', '.join(SPECIAL)}")
    return Model(pieces, types, charsmap)


def tokenizer(model: Model) -> Any:
    """A tokenizer of transformers that splits text as T5 does, and ends it with ``</s>``."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pad, end, unknown = SPECIAL
    inner = Tokenizer(models.Unigram(model.pieces, unk_id=SPECIAL.index(unknown), byte_fallback=False))
    if model.charsmap:
        inner.normalizer = normalizers.Precompiled(model.charsmap)
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement=BLANK, prepend_scheme="always")]
    )
    inner.post_processor = processors.TemplateProcessing(single=["$A", end], special_tokens=[(end, SPECIAL.index(end))])
    named = list(zip((piece for piece, _ in model.pieces), model.types, strict=True))
    inner.add_special_tokens([AddedToken(piece, normalized=False) for piece, kind in named if kind == CONTROL])
    inner.add_tokens([AddedToken(piece, normalized=False) for piece, kind in named if kind == USER_DEFINED])
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token=pad, eos_token=end, unk_token=unknown)


def _fields(content: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a message: an int, or the bytes of what is longer."""
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        field, wire = key >> 3, key & 7
        if wire == 0:
            value: Any
            value, at = _varint(content, at)
        else:
            size = {1: 8, 5: 4}.get(wire)
            if wire == 2:
                size, at = _varint(content, at)
            if size is None or at + size > len(content):
                raise ValueError("it is damaged")
            value, at = content[at : at + size], at + size
        yield field, value


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and the place after it."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            break
        number |= (content[at] & 127) << shift
        at += 1
        if content[at - 1] < 128:
            return number, at
    raise ValueError("it is damaged")


def _raw(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("it is damaged")
    return value
