"""Names of version 0.1: keys, values, class paths and modules that have other names today."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from rollforge.renamed import ATTRIBUTES, MODULES, class_path, renamed, renamed_arguments


def test_every_old_module_and_class_is_found_under_its_new_name() -> None:
    for old, new in MODULES.items():
        names = ATTRIBUTES.get(old, {})
        module, forward = importlib.import_module(new), importlib.import_module(old)
        for name in [*names, *(public for public in vars(module) if not public.startswith("_"))]:
            assert getattr(forward, name) is getattr(module, names.get(name, name))


def test_config_of_version_0_1_is_read_with_todays_keys(caplog: pytest.LogCaptureFixture) -> None:
    old: dict[str, Any] = {
        "model": {
            "negative": "blur",
            "beside": {"class_path": "Window", "init_args": {"negative": 1, "attempts": 2}},
            "check": {"action": "retry", "attempts": 2},
            "kv_codec": {"class_path": "rollforge.memory.kv.Plain"},
        },
        "data": {"clips": {"class_path": "WorldClips", "init_args": {"clips": 3}}, "workers": 2, "rollout_batch": 4},
        "snapshots": {"kv": "replay"},
        "negative": "stays",
    }
    assert renamed(old) == {
        "model": {
            "negative_prompt": "blur",
            "compare_policy": {"class_path": "Window", "init_args": {"negative": 1, "attempts": 2}},
            "block_check": {"action": "retry", "max_retries": 2},
            "kv_codec": {"class_path": "rollforge.memory.kv_codec.IdentityKVCodec"},
        },
        "data": {
            "train_dataset": {"class_path": "WorldClips", "init_args": {"clips": 3}},
            "num_workers": 2, "rollout_batch_size": 4,
        },
        "snapshots": {"kv": "recompute"},
        "negative": "stays",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["--model.negative", "model.check"], ["--model.negative_prompt", "model.check"]),
        (["--model.beside.init_args.beside=2"], ["--model.compare_policy.init_args.beside=2"]),
        (["--model.check.attempts", "2"], ["--model.block_check.max_retries", "2"]),
        (
            ["--data.rollout_batch=2", "--data.workers+", "1"],
            ["--data.rollout_batch_size=2", "--data.num_workers+", "1"],
        ),
        (["--snapshots.kv", "replay"], ["--snapshots.kv", "recompute"]),
        (["--snapshots.kv=replay"], ["--snapshots.kv=recompute"]),
        (["--vary", "model.beside=Window,RollingSink"], ["--vary", "model.compare_policy=Window,RollingSink"]),
        (["--vary=model.negative=a"], ["--vary=model.negative_prompt=a"]),
        (["--data.prompts", "--model.negatives"], ["--data.prompts", "--model.negatives"]),
    ],
)
def test_options_of_version_0_1_are_read_as_todays(old: list[str], new: list[str]) -> None:
    assert renamed_arguments(old) == new


def test_both_names_are_left_to_the_parser() -> None:
    assert renamed({"model": {"negative": "a", "negative_prompt": "b"}})["model"].keys() == {
        "negative",
        "negative_prompt",
    }


def test_class_paths_that_have_not_changed_stay() -> None:
    for path in ("Window", "rollforge.policies.Window", "my_package.health.Check"):
        assert class_path(path) == path
