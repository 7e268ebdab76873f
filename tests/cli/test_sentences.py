"""Invalid values in a config: one sentence that names the value and what was expected, whatever the type allows."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rollforge import trust
from rollforge.cli import main
from rollforge.commands import typed
from rollforge.commands.arguments import path
from rollforge.commands.parsed import ParsedCLI
from rollforge.commands.sentences import sentence
from rollforge.comparison.vary import axis
from rollforge.doctor.parts import build
from rollforge.errors import UserError
from rollforge.registry import registry

SMALL = {"dim": 32, "layers": 1, "heads": 2, "ffn_dim": 64, "window": 6, "horizon": 6, "weights": "random"}
CONFIG: dict[str, Any] = {
    "model": {
        "backbone": {"class_path": "Pocket", "init_args": SMALL},
        "conditioner": "PocketText",
        "codec": {"class_path": "PocketCodec", "init_args": {"width": 16, "weights": "random"}},
        "policy": {"class_path": "Window", "init_args": {"context_blocks": 1}},
        "sampler": {"class_path": "Euler", "init_args": {"steps": 1}},
    },
    "data": {"prompts": ["a red ball over snow at day"], "seconds": 1},
}
Read = Callable[[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Read]:
    """Parses the config with one value changed."""
    file = tmp_path_factory.mktemp("configs") / "roll.yaml"
    file.write_text(yaml.safe_dump(CONFIG))
    given, sys.argv = sys.argv, sys.argv[:1]
    with trust.guarded():
        registry().load()
        cli = ParsedCLI("predict", typed.read(["--config", str(file)]))
        sys.argv = given

        def parse(path: str, value: Any) -> dict[str, Any]:
            changed = within = copy.deepcopy(CONFIG)
            *steps, last = path.split(".")
            for step in steps:
                within = within.setdefault(step, {})
            within[last] = value
            file.write_text(yaml.safe_dump(changed))
            return cli.read(typed.read(["--config", str(file)]))

        yield parse


def part(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": arguments}


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("model.compare_policy", "Windo", "There is no part called 'Windo' at model.compare_policy."),
        ("model.noise", part("Window"), "'Window' does not fit at model.noise: it is a cache."),
        ("model.metrics", ["Repetitio"], "There is no part called 'Repetitio' at model.metrics."),
        ("model.metrics", "Repetition", "model.metrics must be a list, not 'Repetition'."),
        ("model.metrics", [part("Repetition", wind=3)], "model.metrics: There is no key 'wind'. Did you mean "),
        ("model.metrics", [part("Repetition", window=0)], "Repetition.window must be a whole number from 1 to 100,000"),
        ("model.block_check", {"action": "foo"}, "model.block_check: action must be one of 'stop', 'warn', 'retry',"),
        ("model.block_check", {"limit": -1}, "BlockCheck.limit must be a number above 0, not -1.0."),
        ("model.block_check", 5, "model.block_check must name a part"),
        ("model.policy", {"class_path": "Window", "init_arg": {}}, "model.policy must name a part"),
        ("model.policy", {"class_path": "Window", "init_args": None}, "The init_args of model.policy are empty"),
        ("model.policy", None, "model needs policy; give it in the config."),
        ("model.sampler", part("Euler", steps=None), "Euler.steps must not be null; leave it out for its default, 32."),
        ("model.sampler", part("Euler", guided_blocks="abc"), "guided_blocks must be a whole number, not 'abc'."),
        ("model.sampler", part("FewStep", timesteps=[1000, "a"]), "timesteps must be a number, not 'a'."),
        ("model.scheduler", "torch.optim.lr_scheduler.CosineAnnealingLR", "CosineAnnealingLR needs T_max;"),
        ("model.optimizer", part("torch.optim.AdamW", lr="x"), "lr must be a number, not 'x'."),
        ("model.objective", part("DiffusionForcing", curriculum=[3]), "model.objective: curriculum must be keys with"),
        ("model.objective", part("DiffusionForcing", curriculum={0: 0}), "DiffusionForcing.curriculum[0] must be"),
        ("data.train_dataset", part("VideoClips", folder="x"), "VideoClips needs frames; give it in the config."),
        ("data.train_dataset", part("VideoClips", folder="x", frames=3, size=[64]), "data.train_dataset: size must be"),
        ("data.prompts", ["a red ball", 1984], "data.prompts has 1984 where a prompt was expected;"),
        ("data.seconds", float("nan"), "data.seconds must be a number above 0, not nan."),
        ("snapshots.every_seconds", "abc", "snapshots.every_seconds must be a number, not 'abc'."),
        ("snapshots.keep", 0, "snapshots.keep must be a whole number of 1 or more, not 0."),
        ("trainer.logger", "CSVLogger", "CSVLogger needs save_dir; give it in the config."),
        ("trainer.callbacks", [part("ModelCheckpoint", dirpth="x")], "trainer.callbacks: There is no key 'dirpth'."),
        ("trainer.logger", "NeptuneLogger", "There is no public class 'NeptuneLogger' of Lightning at trainer.logger."),
        ("model.scheduler", "ReduceLROnPlateau", "model.scheduler: there are several classes called "),
        ("trainer.callbacks", "Nope", "There is no public class 'Nope' of Lightning at trainer.callbacks."),
        ("trainer.precision", "foo", "trainer.precision must be one of "),
        ("trainer.devices", {}, "trainer.devices must be a list or text or a whole number, not {}."),
        ("trainer.accumulate_grad_batches", 0, "trainer.accumulate_grad_batches must be a whole number of 1 or more"),
        ("trainer.limit_predict_batches", -1, "trainer.limit_predict_batches must be a whole number of 0 or more or a"),
        ("report_every", 0, "report_every must be a whole number of 1 or more, not 0."),
        ("seed_everything", -1, "seed_everything must be a whole number from 0 to 4,294,967,295, not -1."),
        ("resume", "maybe", "A switch such as resume must be true or false, not 'maybe'."),
    ],
)  # fmt: skip
def test_invalid_value_prints_a_one_line_error(read: Read, path: str, value: Any, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        read(path, value)
    message = str(error.value)
    assert message.startswith(sentence)
    assert not re.search("\n|Union|<class", message)


def test_home_folder_in_any_path_of_a_config(read: Read, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read("data.opening", "~/a.png")["data"]["opening"] == str(tmp_path / "a.png")
    assert read("data.prompts", "~/prompts.txt")["data"]["prompts"] == str(tmp_path / "prompts.txt")
    callback = part("ModelCheckpoint", dirpath="~/kept")
    kept = read("trainer.callbacks", [callback])["trainer"]["callbacks"][0]["init_args"]["dirpath"]
    assert kept == str(tmp_path / "kept")


@pytest.mark.parametrize(
    ("name", "config", "sentence"),
    [
        ("compare_policy", part("rollforge.policies.RollingSink", sink_blocks=9), "RollingSink got sink_blocks=9"),
        ("noise", part("rollforge.noise.FixedNoise", file="none.safetensors"), "FixedNoise: there is no file none"),
        ("metrics", [part("rollforge.metrics.repetition.Repetition", window=0)], "Repetition.window must be"),
    ],
)  # fmt: skip
def test_constructor_error_of_an_optional_part_reaches_the_user(name: str, config: Any, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        build(name, config)
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("bench --blocks 0", "--blocks: must be a whole number from 1 to 1,000,000, not '0'"),
        ("bench --device nowhere", "--device: 'nowhere' is not a device of this machine"),
        ("doctor --probe_seconds -1", "--probe_seconds: must be a number of 0 or more, not '-1'"),
        ("decode latents --config x.yaml --fps inf", "--fps: must be a number from 0.01 to 1,000, not 'inf'"),
        ("convert a b --lora_alpha 0", "--lora_alpha: must be a number above 0, not '0'"),
        ("test --data.videos here --horizon_seconds nan", "--horizon_seconds: must be a number above 0, not 'nan'"),
        ("compare --config a.yaml --vary x=1,2 --vary y=a,b", None),
    ],
)
def test_option_out_of_range_is_named(line: str, sentence: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1
    assert (sentence or "a.yaml") in message


def test_home_folder_in_options_of_every_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.yaml").write_text("")
    assert [choice.value for choice in axis("config=~/a.yaml")] == [str(tmp_path / "a.yaml")]
    assert path("~/runs") == str(tmp_path / "runs")
    assert path("runs/~") == "runs/~"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Parser key \"config\": Path is not a file: '/runs'", "/runs is not a file; give a file."),
        ("Parser key \"config\": File does not exist: '/a.yaml'", "There is no file /a.yaml."),
        ("Parser key \"config\": Path exists but no permission to access: '/a.yaml'", "/a.yaml may not be read;"),
        ("Parser key \"config\": File is not readable: '/a.yaml'", "/a.yaml may not be read; check its permissions."),
    ],
)
def test_config_that_cannot_be_opened(message: str, expected: str) -> None:
    assert sentence(message).startswith(expected)
