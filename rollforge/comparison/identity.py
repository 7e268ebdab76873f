"""What the videos of a point depend on, as one hash: a run that has it is the run that is asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from rollforge import __version__
from rollforge.backbones.weights import shipped
from rollforge.files.writing import content_id

IRRELEVANT = ("rollout_batch_size", "batch_size", "num_workers", "train_dataset", "repeat", "latent_cache")
PLAIN = (("seeds", 1), ("first_prompts", None))
"""Options that change nothing at these values, which earlier versions did not have."""
SAMPLES = (
    "prompts", "seconds", "seeds", "first_prompts", "opening", "opening_seconds", "videos", "rollout_batch_size",
    "num_workers", "latent_cache",
)  # fmt: skip
"""Of the section ``data``, what a training does not depend on."""
UNTRAINED = ("metrics", "compare_policy", "compile")
"""The same of the section ``model``."""
SHIPPED = "pocket"
"""As ``weights``, the files that come with the package."""


def content_hash(config: dict[str, Any]) -> str:
    """Hash of a resolved config's model, data, seed, precision and checkpoint, of the files they name, and the version.

    Files up to 64 MB count by their content, larger ones by size and date. What a plugin's own code does is not in it.
    """
    data = {
        key: value
        for key, value in (config.get("data") or {}).items()
        if key not in IRRELEVANT and (key, value) not in PLAIN
    }
    identity = {
        "rollforge": __version__,
        "model": config.get("model"),
        "data": data,
        "seed_everything": config.get("seed_everything"),
        "ckpt_path": config.get("ckpt_path"),
        "precision": (config.get("trainer") or {}).get("precision"),
    }
    return _digest(identity)


def training_hash(config: dict[str, Any]) -> str:
    """Hash of all that the weights of a ``fit`` depend on, and the version. Files count as for ``content_hash``."""
    return _digest(
        {
            "rollforge": __version__,
            "model": {key: value for key, value in (config.get("model") or {}).items() if key not in UNTRAINED},
            "data": {key: value for key, value in (config.get("data") or {}).items() if key not in SAMPLES},
            "seed_everything": config.get("seed_everything"),
            "ckpt_path": config.get("ckpt_path"),
            "trainer": config.get("trainer"),
        }
    )


def trained_hash(config: dict[str, Any], training: str) -> str:
    """Hash of what the videos of a trained point depend on: its own config, and its training."""
    return _digest({"config": content_hash(config), "training": training})


def _digest(identity: dict[str, Any]) -> str:
    """Hash of plain data and of the files that it names."""
    identity["files"] = {leaf: digest for leaf in sorted(set(_leaves(identity))) if (digest := _file(leaf))}
    return sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()


def _leaves(value: Any) -> Iterator[str]:
    """Every text in it."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _leaves(each)


def _file(name: str) -> Any:
    """What stands for the content of a file or of those in a folder; nothing for what is neither."""
    if len(name) > 1000 or "\n" in name or "\0" in name:
        return None
    if name == SHIPPED:
        return [content_id(shipped("pocket")), content_id(shipped("codec"))]
    path = Path(os.path.expanduser(name))
    if os.path.isfile(path):
        return content_id(path)
    if name.strip("./") and os.path.isdir(path):
        return {str(each.relative_to(path)): _dated(each) for each in sorted(path.rglob("*")) if each.is_file()}
    return None


def _dated(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]
