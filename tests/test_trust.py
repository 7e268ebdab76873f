"""A config imports nothing but what is trusted, whichever way the name of a class comes in."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import torch
import yaml
from jsonargparse import _common

from rollforge import trust
from rollforge.cli import main
from rollforge.commands.mistakes import check_files
from rollforge.commands.parsed import ParsedCLI
from rollforge.errors import UserError
from rollforge.registry import Part, Registry, registry

CODE = """
from pathlib import Path
Path({mark!r}).touch()
from rollforge.policies import Window
from torch.optim import SGD
class Sub(Window): ...
class Own(SGD): ...
def make(parameters) -> SGD: return SGD(parameters)
"""


@pytest.fixture
def tiny(tmp_path: Path) -> dict[str, Any]:
    """A config of the smallest model."""
    return {
        "model": {
            "backbone": {"class_path": "Pocket", "init_args": {"dim": 32, "layers": 1, "heads": 2, "ffn_dim": 64}},
            "conditioner": {"class_path": "PocketText"},
            "codec": {"class_path": "PocketCodec", "init_args": {"width": 16}},
            "policy": {"class_path": "Window"},
            "sampler": {"class_path": "Euler"},
        },
        "data": {"prompts": ["a red ball over snow at day"], "seconds": 3},
    }


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that exists once the module ``stranger`` has been imported."""
    (tmp_path / "stranger.py").write_text(CODE.format(mark=str(tmp_path / "mark")))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "mark"
    sys.modules.pop("stranger", None)


Parse = Callable[..., Any]


@pytest.fixture
def parse(tiny: dict[str, Any], mark: Path) -> Parse:
    """Reads the config as every command does."""

    def run(*more: str, **changes: Any) -> Any:
        for path, value in changes.items():
            *steps, last = path.split("__")
            inner = tiny
            for step in steps:
                inner = inner.setdefault(step, {})
            inner[last] = value
        mark.with_name("tiny.yaml").write_text(yaml.safe_dump(tiny))
        modules, rest = trust.take(["--config", "tiny.yaml", *more])
        with trust.guarded(modules, rest):
            check_files(rest)
            registry().load()
            return ParsedCLI("predict", rest).chosen

    return run


def nested(mark: Path) -> str:
    mark.with_name("nested.yaml").write_text("class_path: stranger.Sub\n")
    return "nested.yaml"


@pytest.mark.parametrize(
    ("option", "place"),
    [
        (["--model.policy=stranger.Sub"], "--model.policy"),
        (["--model.policy", "stranger.Sub"], "--model.policy"),
        (["--model.policy.class_path", "stranger.Sub"], "--model.policy.class_path"),
        (['--model.policy={"class_path": "stranger.Sub"}'], "--model.policy"),
        (["--model.policy.help=stranger.Sub"], "--model.policy.help"),
        (["--model.optimizer", "stranger.make"], "--model.optimizer"),
        (["--model.optimizer.class_path=stranger.Own"], "--model.optimizer.class_path"),
        (["--trainer.callbacks+=stranger.Sub"], "--trainer.callbacks+"),
        (
            ["--trainer.callbacks+=LambdaCallback", "--trainer.callbacks.setup=stranger.make"],
            "--trainer.callbacks.setup",
        ),
        (["--config", '{"model": {"policy": "stranger.Sub"}}'], "--config"),
    ],
)
def test_an_option_cannot_import(parse: Parse, mark: Path, option: list[str], place: str) -> None:
    with pytest.raises(UserError, match=r"stranger.* not trusted.*--trust stranger") as error:
        parse(*option)
    assert f" in {place} " in str(error.value)
    assert "\n" not in str(error.value)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model__policy", {"class_path": "stranger.Sub"}),
        ("model__policy", "stranger.Sub"),
        ("model__optimizer", "stranger.make"),
        ("model__optimizer", {"class_path": "stranger.Own", "init_args": {"lr": 1}}),
        ("model__metrics", [{"class_path": "stranger.Sub"}]),
        ("trainer__callbacks", ["stranger.Sub"]),
        ("trainer__logger", {"class_path": "stranger.Sub"}),
        ("trainer__callbacks", [{"class_path": "Timer", "dict_kwargs": {"x": [{"class_path": "stranger.Sub"}]}}]),
    ],
)
def test_a_config_cannot_import(parse: Parse, mark: Path, key: str, value: Any) -> None:
    with pytest.raises(UserError, match=r"stranger.* in tiny.yaml.* would run code .* not trusted.*--trust stranger"):
        parse(**{key: value})
    assert not mark.exists()


@pytest.mark.parametrize("way", ["file in file", "file in option", "section in option", "checkpoint", "environment"])
def test_no_other_way_leads_around(parse: Parse, mark: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = nested(mark)
    mark.with_name("model.yaml").write_text("policy: stranger.Sub\n")
    torch.save({"hyper_parameters": {"policy": "stranger.Sub"}}, mark.with_name("a.ckpt"))
    if way == "environment":
        monkeypatch.setenv("PL_PREDICT__MODEL__POLICY", "stranger.Sub")
        parse()
    else:
        options = {
            "file in file": [],
            "file in option": ["--model.policy", file],
            "section in option": ["--model", "model.yaml"],
            "checkpoint": ["--ckpt_path", "a.ckpt"],
        }
        changes = {"model__policy": file} if way == "file in file" else {}
        with pytest.raises(UserError, match="stranger"):
            parse(*options[way], **changes)
    assert not mark.exists()


@pytest.mark.parametrize(
    "path",
    [
        "rollforge.registry.os.system",
        "rollforge.trust.allow",
        "rollforge.__main__.main",
        "torch.optim.sgd.torch.load",
        "lightning.pytorch.cli.instantiate_class",
        "builtins.eval",
        "os.system",
    ],
)
def test_trusted_modules_lend_nothing_that_is_not_theirs(parse: Parse, path: str) -> None:
    with pytest.raises(UserError, match="not trusted"):
        parse(f"--model.optimizer={path}")


@pytest.mark.parametrize("given", [["--trust", "stranger"], ["--trust=other,stranger"], []])
def test_the_person_at_the_keyboard_can_trust(parse: Parse, mark: Path, given: list[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("ROLLFORGE_TRUST", "" if given else "stranger")
    assert parse(*given, "--model.policy=stranger.Sub").model.policy.class_path == "stranger.Sub"
    assert mark.exists()
    monkeypatch.setenv("ROLLFORGE_TRUST", "")
    with pytest.raises(UserError, match="not trusted"):  # and only for that run, though it is imported now
        parse("--model.policy=Sub")


def test_a_config_cannot_trust(parse: Parse, tiny: dict[str, Any], mark: Path) -> None:
    with pytest.raises(UserError, match=r"tiny.yaml cannot say what is trusted; only --trust"):
        parse(trust=["stranger"], model__policy="stranger.Sub")
    assert not mark.exists()


def test_short_names_and_what_configs_need_stay_valid(parse: Parse) -> None:
    chosen = parse(
        "--trainer.callbacks+=ModelSummary", "--trainer.logger=CSVLogger", "--trainer.logger.save_dir=x",
        "--trainer.strategy=DDPStrategy",
        model__optimizer={"class_path": "torch.optim.AdamW"},
        model__scheduler={"class_path": "torch.optim.lr_scheduler.OneCycleLR", "init_args": {"max_lr": 1.0}},
    )  # fmt: skip
    assert chosen.model.policy.class_path == "rollforge.policies.Window"


def test_take() -> None:
    assert trust.take(["--a", "--trust", "x.y, z", "--trust=w", "b"]) == (("x.y", "z", "w"), ["--a", "b"])
    for wrong in (["--trust"], ["--trust", "--a"], ["--trust", "*"], ["--trust=jsonargparse"], ["--trust=a/b"]):
        with pytest.raises(UserError, match="--trust"):
            trust.take(wrong)


def test_plugins_are_trusted_but_not_what_they_register_of_others(monkeypatch: Any) -> None:
    parts = {("cache", n): Part("cache", n, "p", n) for n in ("plug.in_:A", "torch.nn:Linear", "rollforge.x:B")}
    monkeypatch.setattr(trust, "registry", lambda: Registry(parts))
    monkeypatch.setattr(trust, "entry_points", lambda group: [])
    assert trust.plugin_modules() == {"plug", "torch.nn.Linear"}


def test_jsonargparse_still_has_what_the_guard_needs() -> None:
    """If this fails, the guard in ``rollforge/trust.py`` must be looked at before anything else."""
    before = dict(_common.parsing_settings)
    with trust.guarded():
        assert _common.parsing_settings["import_paths_enforced"] is True
        assert _common.denying_import_path_entry("anything.at.all") == "*"
        assert trust.refused("os.system")
        assert not trust.refused("rollforge.policies.Window")
        with pytest.raises(_common.ImportDenied):
            _common.check_import_path("stranger.Sub")
    assert _common.parsing_settings == before
    assert json.dumps(jsonargparse.get_loader("yaml")("{a: 1}")) == '{"a": 1}'


@pytest.mark.parametrize("option", [["--config", "https://x.invalid/a.yaml"], ["--model.policy", "hf://a/b/c.yaml"]])
def test_no_config_is_fetched(parse: Parse, option: list[str], monkeypatch: Any) -> None:
    monkeypatch.setattr("fsspec.open", lambda *_, **__: pytest.fail("fetched"))
    with pytest.raises(UserError, match="is on another machine"):
        parse(*option)


def test_a_config_cannot_switch_weights_only_off(parse: Parse) -> None:
    with pytest.raises(UserError, match="only --weights_only false on the command line"):
        parse(weights_only=False)


@pytest.mark.parametrize("command", ["predict", "test", "fit", "doctor"])
def test_every_command_that_takes_a_config_is_guarded(
    command: str, tiny: dict[str, Any], mark: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny["model"]["policy"] = {"class_path": "stranger.Sub"}
    mark.with_name("tiny.yaml").write_text(yaml.safe_dump(tiny))
    assert main([command, "--config", "tiny.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "rollforge: stranger.Sub in tiny.yaml at model.policy would run code of a module that is not trusted"
    )
    assert not mark.exists()
