"""Attention processors for diffusers' SkyReels-V2 blocks that hand keys and values to a rollforge memory.

A block of diffusers passes whatever it is given as ``rotary_emb`` to the processor of its self-attention, and as
``encoder_hidden_states`` to that of its cross-attention. Here these are the memory and the text, so that the processors
keep nothing from one pass to the next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from rollforge.memory.attention import attention
from rollforge.memory.base import Memory


class Text:
    """The text of one pass. It is embedded once, and only where the memory lacks its keys and values.

    Args:
        id: names the text.
        embed: makes its embedding, ``[B, L, width]``.
        memory: caches keys and values of cross-attention.
    """

    def __init__(self, id: str, embed: Callable[[], Tensor], memory: Memory) -> None:
        self.id, self.memory = id, memory
        self._embed = embed
        self._embedding: Tensor | None = None

    @property
    def embedding(self) -> Tensor:
        """``[B, L, width]``."""
        if self._embedding is None:
            self._embedding = self._embed()
        return self._embedding


class SelfAttention:
    """Self-attention of one layer through a memory, which decides what is attended to and rotates the keys."""

    def __init__(self, layer: int) -> None:
        self.layer = layer

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: None, attention_mask: None, rotary_emb: Memory
    ) -> Tensor:
        """``hidden_states`` and the result are ``[B, F * tokens, width]``; ``rotary_emb`` is the memory."""
        q, k, v = _query(attn, hidden_states), *_key_value(attn, hidden_states)
        return _output(attn, rotary_emb.attend(self.layer, q, k, v))


class CrossAttention:
    """Cross-attention of one layer to a text, whose keys and values the memory caches."""

    def __init__(self, layer: int) -> None:
        self.layer = layer

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Text, attention_mask: None, rotary_emb: None
    ) -> Tensor:
        """``hidden_states`` and the result are ``[B, F * tokens, width]``; ``encoder_hidden_states`` is the text."""
        text = encoder_hidden_states
        k, v = text.memory.cross(self.layer, text.id, lambda: _key_value(attn, text.embedding))
        return _output(attn, attention(_query(attn, hidden_states), k, v))


def _query(attn: Any, x: Tensor) -> Tensor:
    """``[B, L, width]`` to queries ``[B, L, heads, head_dim]``, after their norm."""
    return attn.norm_q(attn.to_q(x)).unflatten(-1, (attn.heads, -1))


def _key_value(attn: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """``[B, L, width]`` to keys, after their norm, and values, ``[B, L, heads, head_dim]``."""
    heads = (attn.heads, -1)
    return attn.norm_k(attn.to_k(x)).unflatten(-1, heads), attn.to_v(x).unflatten(-1, heads)


def _output(attn: Any, attended: Tensor) -> Tensor:
    """``[B, L, heads, head_dim]`` through the output projection and its dropout."""
    projection, dropout = attn.to_out
    return dropout(projection(attended.flatten(2)))
