"""The ``config.json`` next to the weights of a transformer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoints import GRID, family, state

from rollforge.backbones.wan.network import Wan
from rollforge.errors import UserError

ORIGINAL = {"_class_name": "CausalWanModel", "dim": 24, "num_heads": 3, "eps": 1e-5, "text_len": 7}
DIFFUSERS = {"_class_name": "WanTransformer3DModel", "num_attention_heads": 3, "attention_head_dim": 8, "eps": 1e-5}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return family(tmp_path / "model.pt", state(dim=24))


def opened(weights: Path, config: Any, **given: Any) -> Wan:
    (weights.parent / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    sizes = {name: size for name, size in GRID.items() if name != "text_len"}
    return Wan(**sizes, weights=str(weights), **given)


def sizes(model: Wan) -> tuple[int, int, float]:
    return model.spec.heads, model.text_len, model.blocks[0].norm1.eps  # type: ignore[union-attr, return-value]


def test_it_says_what_the_weights_do_not_show(weights: Path) -> None:
    assert sizes(opened(weights, ORIGINAL)) == (3, 7, 1e-5)
    assert sizes(opened(weights, DIFFUSERS)) == (3, 512, 1e-5)


def test_what_is_given_wins(weights: Path) -> None:
    assert sizes(opened(weights, ORIGINAL, heads=2, text_len=9, eps=1e-4)) == (2, 9, 1e-4)


@pytest.mark.parametrize(
    "config", [{"_class_name": "AutoencoderKLWan", "num_heads": 3}, {"model_type": "umt5", "num_heads": 3}, [], 3]
)
def test_the_config_of_another_part_is_passed_over(weights: Path, config: Any) -> None:
    assert sizes(opened(weights, config, heads=2)) == (2, 512, 1e-6)


def test_the_config_of_another_network_is_named_and_not_used(weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert sizes(opened(weights, ORIGINAL | {"dim": 1536}, heads=2)) == (2, 512, 1e-6)
    assert "is of a network 1536 wide and is not used: the weights are 24 wide." in caplog.text


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("{", "is not readable JSON"),
        (ORIGINAL | {"num_heads": "three"}, "heads must be a whole number"),
        (ORIGINAL | {"eps": -1}, "eps must be a number"),
    ],
)
def test_what_no_network_has_is_refused(weights: Path, config: Any, expected: str) -> None:
    with pytest.raises(UserError, match=expected) as error:
        opened(weights, config)
    assert str(weights.parent / "config.json") in str(error.value)
