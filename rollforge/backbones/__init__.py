"""Backbones with their video codecs and conditioners: the contracts, Pocket and Wan 2.1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rollforge.lazy import lazily

if TYPE_CHECKING:
    from rollforge.backbones.base import Backbone, Condition, Conditioner, DecodeStream, VideoCodec
    from rollforge.backbones.pocket.codec import PocketCodec
    from rollforge.backbones.pocket.network import Pocket
    from rollforge.backbones.pocket.text import PocketText
    from rollforge.backbones.wan.codec import WanVAE
    from rollforge.backbones.wan.network import Wan
    from rollforge.backbones.wan.text import UMT5
    from rollforge.backbones.wan.tiny import TinyWanDecoder
    from rollforge.backbones.weights import load_weights, named

__all__ = [
    "UMT5",
    "Backbone",
    "Condition",
    "Conditioner",
    "DecodeStream",
    "Pocket",
    "PocketCodec",
    "PocketText",
    "TinyWanDecoder",
    "VideoCodec",
    "Wan",
    "WanVAE",
    "load_weights",
    "named",
]

__getattr__ = lazily(
    __name__,
    {
        "Backbone": "base",
        "Condition": "base",
        "Conditioner": "base",
        "DecodeStream": "base",
        "Pocket": "pocket.network",
        "PocketCodec": "pocket.codec",
        "PocketText": "pocket.text",
        "TinyWanDecoder": "wan.tiny",
        "UMT5": "wan.text",
        "VideoCodec": "base",
        "Wan": "wan.network",
        "WanVAE": "wan.codec",
        "load_weights": "weights",
        "named": "weights",
    },
)
