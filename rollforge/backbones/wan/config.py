"""What ``config.json`` next to the weights of a transformer says and the weights themselves do not show."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from rollforge.backbones.wan.sizes import Width
from rollforge.files.reading import read_json
from rollforge.ranges import Count, NonNegative, fitted

log = logging.getLogger(__name__)

MOST = 1_000_000  # bytes
CLASSES = ("WanModel", "CausalWanModel", "WanTransformer3DModel")
"""In the original layout, in the Self Forcing family, and in diffusers. A folder may hold another part's config."""
KEYS = {"heads": ("num_heads", "num_attention_heads"), "text_len": ("text_len",), "eps": ("eps",)}
RANGES = {"heads": Count, "text_len": Width, "eps": NonNegative}


def config_of(weights: Path, dim: int | None) -> dict[str, Any]:
    """``heads``, ``text_len`` and ``eps``, as far as the config next to a file of weights has them.

    Args:
        weights: the file, or the index of its shards.
        dim: width of the network; the config of a network of another width is not used.

    Raises:
        UserError: for a config that cannot be read, and for values that no network has.
    """
    file = weights.parent / "config.json"
    content = read_json(file, MOST, "config") if os.path.lexists(file) else None
    if not isinstance(content, dict) or content.get("_class_name") not in CLASSES:
        return {}
    found = {name: content[key] for name, keys in KEYS.items() for key in keys if content.get(key) is not None}
    known = fitted(str(file), RANGES, found)
    width = content.get("dim") or known.get("heads", 0) * (content.get("attention_head_dim") or 0)
    if width and dim and width != dim:
        log.warning("%s is of a network %s wide and is not used: the weights are %d wide.", file, width, dim)
        return {}
    return known
