"""A config imports nothing but what is trusted, whichever way the name of a class comes in."""

from __future__ import annotations

import io
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
from rollforge.commands.parsed import ParsedCLI
from rollforge.commands.typed import read
from rollforge.errors import UserError
from rollforge.registry import Part, registry

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

    def run(*more: str, config: list[str] | None = None, **changes: Any) -> Any:
        for path, value in changes.items():
            *steps, last = path.split("__")
            inner = tiny
            for step in steps:
                inner = inner.setdefault(step, {})
            inner[last] = value
        mark.with_name("tiny.yaml").write_text(yaml.safe_dump(tiny))
        typed = read([*(config or ["--config", "tiny.yaml"]), *more])
        with trust.guarded(typed.modules):
            return ParsedCLI("predict", typed).chosen

    return run


def nested(mark: Path) -> str:
    mark.with_name("nested.yaml").write_text("class_path: stranger.Sub\n")
    return "nested.yaml"


@pytest.mark.parametrize(
    ("option", "place"),
    [
        (["--model.policy=stranger.Sub"], "at model.policy"),
        (["--model.policy", "stranger.Sub"], "at model.policy"),
        (["--model.policy.class_path", "stranger.Sub"], "at model.policy"),
        (['--model.policy={"class_path": "stranger.Sub"}'], "at model.policy"),
        (["--model.policy.help=stranger.Sub"], ""),
        (["--model.optimizer", "stranger.make"], "at model.optimizer"),
        (["--model.optimizer.class_path=stranger.Own"], "at model.optimizer"),
        (["--trainer.callbacks+=stranger.Sub"], "at trainer.callbacks"),
        (["--trainer.callbacks+=LambdaCallback", "--trainer.callbacks.setup=stranger.make"], "at trainer.callbacks"),
        (["--config", '{"model": {"policy": "stranger.Sub"}}'], "in a config at model.policy"),
    ],
)
def test_an_option_cannot_import(parse: Parse, mark: Path, option: list[str], place: str) -> None:
    with pytest.raises(UserError, match=r"stranger.* not trusted.*--trust stranger") as error:
        parse(*option)
    assert place in str(error.value)
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
    elif way == "checkpoint":
        assert parse("--ckpt_path", "a.ckpt").model.policy.class_path == "rollforge.policies.Window"
    else:
        options = {
            "file in file": [],
            "file in option": ["--model.policy", file],
            "section in option": ["--model", "model.yaml"],
        }
        changes = {"model__policy": file} if way == "file in file" else {}
        with pytest.raises(UserError, match=r"stranger.Sub (in nested\.yaml|at model).* not trusted"):
            parse(*options[way], **changes)
    assert not mark.exists()


@pytest.mark.parametrize(
    "path",
    [
        "rollforge.registry.os.system",
        "rollforge.trust.imports.allow",
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


@pytest.mark.parametrize("form", ["text", "mapping"])
@pytest.mark.parametrize("place", ["optimizer", "scheduler", "callback"])
def test_a_config_calls_no_function(parse: Parse, mark: Path, form: str, place: str) -> None:
    path = "rollforge.files.writing.write"
    value = path if form == "text" else {"class_path": path, "init_args": {"path": str(mark), "content": "x"}}
    callback = {"class_path": "LambdaCallback", "init_args": {"setup": value}}
    changes = {"trainer__callbacks": [callback]} if place == "callback" else {f"model__{place}": value}
    with pytest.raises(
        UserError, match=r"rollforge.files.writing.write .*is not trusted: a config may only name parts"
    ):
        parse(**changes)
    assert not mark.exists()


PLUGIN = """
from pathlib import Path
from lightning.pytorch import Callback
from rollforge.metrics import Metric
class Space: ...
class Deep(Space): ...
class Runner: ...
class Bell(Callback): ...
def make() -> Space: ...
class Drift(Metric):
    def __init__(self, space: Space | None = None) -> None: ...
"""


def test_a_config_names_classes_from_a_list_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plug.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    part = Part("metric", "Drift", "plug 1.0", "plug:Drift")
    monkeypatch.setitem(registry().parts, ("metric", "Drift"), part)
    with trust.guarded():
        for path in (
            *("torch.optim.AdamW", "torch.optim.swa_utils.SWALR", "lightning.pytorch.cli.ReduceLROnPlateau"),
            *(
                "lightning.Callback",
                "lightning.pytorch.strategies.ModelParallelStrategy",
                "rollforge.rollout.block_check.BlockCheck",
            ),
            *("lightning.pytorch.plugins.environments.SLURMEnvironment", "rollforge.policies.window.Window"),
            *("plug.Drift", "plug.Space", "plug.Deep", "plug.Bell"),
        ):
            assert not trust.refused(path), path
        for path in (
            *(
                "rollforge.files.writing.write",
                "rollforge.commands.typed.Typed",
                "rollforge.lightning.module.RolloutModule",
            ),
            *("lightning.pytorch.plugins.TorchCheckpointIO.remove_checkpoint", "lightning.pytorch.Trainer"),
            *("lightning.pytorch.strategies.DeepSpeedStrategy", "torch.optim.Optimizer.load_state_dict"),
            *("torch.optim.swa_utils.AveragedModel", "torch.optim.sgd.torch.load", "torch.optim", "os.system"),
            *("plug.make", "plug.Runner", "plug.Path", "plug.Space.__init__", "plug.__dict__", "plug", "plug.x.Y"),
        ):
            assert trust.refused(path), path


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


def test_what_only_the_command_line_can_say_is_taken_from_it() -> None:
    typed = read(["--a", "--trust", "x.y, z", "--trust=w", "--weights_only", "false", "b", "--c=s://d"])
    assert (typed.modules, typed.weights_only, typed.rest) == (("x.y", "z", "w"), False, ["--a", "b", "--c=s://d"])
    assert "s://d" in typed.values
    for wrong in (["--trust"], ["--trust", "--a"], ["--trust", "*"], ["--trust=jsonargparse"], ["--trust=a/b"]):
        with pytest.raises(UserError, match="--trust"):
            read(wrong)
    with pytest.raises(UserError, match="--weights_only must be true or false, not 'maybe'"):
        read(["--weights_only=maybe"])


def test_jsonargparse_still_has_what_the_guard_needs() -> None:
    """If this fails, the guard in ``rollforge/trust/imports.py`` must be looked at before anything else."""
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


NAMED = (
    ["--config", "tiny.yaml"], ["--config=tiny.yaml"], ["-c", "tiny.yaml"], ["-ctiny.yaml"], ["-c=tiny.yaml"],
    ["--config=~/tiny.yaml"], ["--config", "-"], ["--config", "TEXT"],
)  # fmt: skip
"""Every way to name a config."""


@pytest.mark.parametrize("named", NAMED, ids=" ".join)
def test_a_config_cannot_switch_weights_only_off_however_it_is_named(
    parse: Parse, tiny: dict[str, Any], mark: Path, named: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = json.dumps({**tiny, "weights_only": False})
    monkeypatch.setenv("HOME", str(mark.parent))
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    with pytest.raises(UserError, match="cannot switch weights_only off"):
        parse(config=[word.replace("TEXT", text) for word in named], weights_only=False)


def test_options_are_written_out(parse: Parse) -> None:
    for option in ("--conf", "--mod.policy", "--data.second"):
        with pytest.raises(UserError, match=f"There is no option {option}"):
            parse(option, "1")


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
