"""Configs, options and run folders of version 0.1, whose keys have other names today."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from rollforge import renamed

if TYPE_CHECKING:
    from conftest import Tiny

OLD = {
    "model": {"compare_policy": "beside", "negative_prompt": "negative", "block_check": "check"},
    "data": {"train_dataset": "clips", "num_workers": "workers", "rollout_batch_size": "rollout_batch"},
}


def as_version_0_1(config: dict[str, Any]) -> dict[str, Any]:
    """A saved config under its old keys."""
    return {
        name: {OLD.get(name, {}).get(key, key): value for key, value in section.items()}
        if isinstance(section, dict)
        else section
        for name, section in config.items()
    }


def test_a_run_folder_of_version_0_1_is_taken_up(tiny: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    renamed._warn.cache_clear()  # it warns once in a process
    options = ["--model.negative", "fog", "--model.check.attempts", "2", "--data.rollout_batch", "2"]
    tiny.config["model"]["beside"] = {"class_path": "Window", "init_args": {"context_blocks": 2}}
    assert tiny.run("predict", *options) == 0
    assert "model.beside is called compare_policy now; the old name works until rollforge 0.3." in caplog.text
    saved, manifest = tiny.out / "config.yaml", tiny.out / "manifest.json"
    config = yaml.safe_load(saved.read_text())
    assert config["model"]["negative_prompt"] == "fog"
    assert config["model"]["block_check"]["max_retries"] == 2
    old = as_version_0_1(config)
    saved.write_text(yaml.safe_dump(old, sort_keys=False))
    digest = sha256(json.dumps(old["model"], sort_keys=True, default=str).encode()).hexdigest()[:16]
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"config_hash": digest}))
    before = {file.name: file.stat().st_mtime_ns for file in tiny.out.glob("*.mp4")}
    assert len(before) == 3
    assert tiny.run("predict", *options) == 0
    assert {file.name: file.stat().st_mtime_ns for file in tiny.out.glob("*.mp4")} == before


def test_the_config_of_another_run_is_refused_whatever_lies_beside_the_manifest(tiny: Tiny) -> None:
    assert tiny.run("predict") == 0
    manifest = tiny.out / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"config_hash": "0" * 16}))
    assert tiny.run("predict") == 2
