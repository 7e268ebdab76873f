"""Pocket's text features: a caption as four fixed tokens. Nothing here is learned."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor

from rollforge.backbones.base import Condition, Conditioner
from rollforge.data.world import WORDS, Scene

WIDTH = 64
TOKENS = 4  # nearer thing, farther thing, ground, time
SCALE = 4.0  # one-hot features this large have about unit variance over a token


class PocketText(Conditioner):
    """One-hot features of a caption of the procedural world, ``[B, 4, 64]``; the empty prompt is all zeros."""

    def check(self, prompts: Sequence[str]) -> None:
        for prompt in prompts:
            _features(prompt)

    def forward(self, prompts: Sequence[str]) -> Condition:
        name = blake2b(repr(list(prompts)).encode(), digest_size=8).hexdigest()
        return Condition(name, torch.stack([_features(prompt) for prompt in prompts]))


def _features(prompt: str) -> Tensor:
    features = torch.zeros(TOKENS, WIDTH)
    if not prompt.strip():
        return features
    scene = Scene.parse(prompt)
    vocabulary = [word for words in WORDS.values() for word in words]
    tokens: list[tuple[str, ...]] = [(), (), (scene.ground,), (scene.time,)]
    tokens[: len(scene.things)] = scene.things
    for n, words in enumerate(tokens):
        features[n, n] = SCALE
        for word in filter(None, words):  # what is left unsaid is empty
            features[n, TOKENS + vocabulary.index(word)] = SCALE
    return features
