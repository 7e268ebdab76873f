"""Addresses in a config: refused wherever a path stands, and for services unless they are typed."""

from __future__ import annotations

from typing import Any

import pytest
from jsonargparse import Namespace

from rollforge.commands.addresses import check_addresses
from rollforge.commands.typed import read
from rollforge.errors import UserError

HERE = "s3://bucket/x"


def config(key: str, value: Any) -> Namespace:
    made = Namespace()
    made[key] = value
    return made


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("output_dir", HERE),
        ("ckpt_path", "local::/x"),
        ("data.opening", "https://a/b.png"),
        ("data.train_dataset", Namespace(class_path="VideoClips", init_args=Namespace(folder=HERE))),
        ("model.codec.init_args.weights", "file:///etc/x"),
        ("model.metrics", [{"class_path": "M", "init_args": {"x": [HERE]}}]),
    ],
)
def test_paths_of_rollforge_are_on_this_machine_typed_or_not(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^{key}.* must be a path on this machine"):
        check_addresses(config(key, value), {HERE, "https://a/b.png"})


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("trainer.default_root_dir", HERE, HERE),
        ("trainer.callbacks", [Namespace(class_path="ModelCheckpoint", init_args=Namespace(dirpath=HERE))], HERE),
        ("trainer.callbacks", [{"init_args": {"dirpath": "simplecache::s3"}}], "simplecache::s3"),
        ("trainer.logger.init_args.save_dir", HERE, HERE),
        ("trainer.logger.init_args.tracking_uri", "http://evil:5000", "http://evil:5000"),
        ("trainer.logger.dict_kwargs", {"settings": {"base_url": "https://evil"}}, "https://evil"),
        ("trainer.logger.dict_kwargs", {"settings": {"http_proxy": "evil.org:3128"}}, "evil.org:3128"),
        ("trainer.model_registry", "someone/models", "someone/models"),
        ("trainer.logger.dict_kwargs", {"proxies": {"https://a": "b"}}, "https://a"),
    ],
)
def test_services_are_reported_to_only_where_typed(key: str, value: Any, found: str) -> None:
    with pytest.raises(UserError, match=r"a config cannot send anything to another machine; .*type it: --trainer"):
        check_addresses(config(key, value), set())
    check_addresses(config(key, value), read([f"--{key}={found}"]).values)


def test_the_environment_names_services_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mine:5000")
    check_addresses(config("trainer.logger.init_args.tracking_uri", "http://mine:5000"), set())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.prompts", ["a poster that says https://x.org", [{"prompt": "s3://y"}]]),
        ("model.negative_prompt", "http://"),
        ("trainer.max_time", "00:12:00:00"),
        ("trainer.callbacks", [{"init_args": {"monitor": "train/loss", "dirpath": "out/x"}}]),
        ("model.backbone.init_args.weights", "org/model:folder/file.safetensors"),
    ],
)
def test_what_is_no_address_is_left_alone(key: str, value: Any) -> None:
    check_addresses(config(key, value), set())


def test_a_command_refuses_the_address_of_a_logger_in_one_sentence(tiny: Any, error_line: Any) -> None:
    logger = {"class_path": "MLFlowLogger", "init_args": {"tracking_uri": "http://evil:5000"}}
    tiny.config["trainer"] = {"logger": logger}
    assert "The config names the address http://evil:5000 at trainer.logger" in error_line(tiny.run("predict"))
    assert not tiny.out.exists()
