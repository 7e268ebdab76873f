"""What a person gets who asks for something wrong: one sentence, and nothing that looks finished."""

from __future__ import annotations

import errno
import json
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rollforge.backbones.pocket.network import Pocket
from rollforge.cli import main
from rollforge.data.world import WORDS
from rollforge.registry import registry

ErrorLine = Callable[[int], str]
SMALL = {"dim": 32, "layers": 1, "heads": 2, "ffn_dim": 64, "window": 6, "horizon": 6}


def nothing_looks_finished(tiny: Any) -> None:
    assert tiny.videos() == []
    manifest = tiny.out / "manifest.json"
    assert not manifest.is_file() or json.loads(manifest.read_text())["complete"] is False


def put(config: dict[str, Any], path: str, value: Any) -> None:
    """Sets ``config[a][b][c]`` for ``a.b.c``."""
    *steps, last = path.split(".")
    for step in steps:
        config = config.setdefault(step, {})
    config[last] = value


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """A disk that takes no more: the kernel refuses to let any file grow beyond ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("model.polcy", {"class_path": "Window"}, ["'polcy'", "Did you mean 'policy'?"]),
        ("model.policy.init_args.sink_block", 1, ["'sink_block'", "Did you mean 'sink_blocks'?"]),
        ("model.backbone.init_args.widht", 8, ["'widht'", "Did you mean 'width'?"]),
        ("data.second", 3, ["'second'", "Did you mean 'seconds'?"]),
        ("trainer.max_step", 3, ["'max_step'", "Did you mean 'max_steps'?"]),
        ("modle", {"policy": None}, ["'modle'", "Did you mean 'model'?"]),
        ("modle", {}, ["'modle'", "Did you mean 'model'?"]),
        ("model.policy.class_path", "RollingSnk", ["'RollingSnk'", "policy", "Did you mean 'RollingSink'?"]),
        ("model.policy.class_path", "Zzz", ["'Zzz'", "rollforge plugins"]),
        ("model.policy.class_path", "Pocket", ["'Pocket'", "is a backbone", "policy"]),
        ("model.backbone.class_path", "nowhere.Net", ["nowhere.Net", "backbone"]),
        ("model.policy", {"class_path": "RollingSink", "init_args": {"context_blocks": 2, "sink_blocks": 3}},
         ["sink_blocks=3", "context_blocks=2", "lower sink_blocks to 2"]),
        ("model.policy.init_args.sink_blocks", "many", ["sink_blocks", "'many'", "a whole number"]),
        ("model.backbone.init_args.horizon", 0, ["Pocket.horizon", "from 1 to 1,000,000", "not 0"]),
        ("model.backbone.init_args.horizon", 7, ["horizon is 7", "multiple of its block, 3"]),
        ("model.backbone.init_args.weights", "nowhere.safetensors", ["Pocket", "no weights file nowhere.safetensors"]),
        ("model.codec.init_args.weights", "nowhere.safetensors", ["PocketCodec", "nowhere.safetensors"]),
        ("model.sampler.init_args.steps", 0, ["Euler", "steps", "0"]),
        ("data.seconds", 0, ["data.seconds", "above 0", "not 0"]),
        ("data.seconds", -1, ["data.seconds", "above 0", "not -1"]),
        ("data.seconds", ".inf", ["data.seconds"]),
        ("data.seconds", "long", ["data.seconds", "'long'", "a number"]),
        ("data.rollout_batch_size", 0, ["rollout_batch_size", "0"]),
        ("data.prompts", [], ["nothing to generate", "data.prompts"]),
        ("data.prompts", ["a red ball over snow at day", " "], ["empty prompt"]),
        ("data.prompts", "nowhere/prompts.txt", ["no prompt file or folder nowhere/prompts.txt"]),
        ("data.prompts", ["a red bal over snow at day"], ["'bal' is not a shape", "did you mean 'ball'"]),
    ],
)  # fmt: skip
def test_a_mistake_in_the_config_is_one_sentence(
    tiny: Any, error_line: ErrorLine, path: str, value: Any, expected: list[str]
) -> None:
    put(tiny.config, path, float("inf") if value == ".inf" else value)
    message = error_line(tiny.run("predict"))
    for words in expected:
        assert words in message
    nothing_looks_finished(tiny)


def test_a_prompt_outside_the_vocabulary_gets_every_word(tiny: Any, error_line: ErrorLine) -> None:
    message = error_line(tiny.run("predict", "--data.prompts", "a dragon in the rain"))
    assert "'a dragon in the rain'" in message
    for words in WORDS.values():
        assert ", ".join(words) in message
    assert not tiny.out.exists()


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_prompt_file_is_named(tiny: Any, error_line: ErrorLine, text: str) -> None:
    file = tiny.folder / "prompts.txt"
    file.write_text(text)
    message = error_line(tiny.run("predict", "--data.prompts", str(file)))
    assert f"{file} is empty" in message
    assert not tiny.out.exists()


def test_a_prompt_folder_without_prompts_is_named(tiny: Any, error_line: ErrorLine) -> None:
    folder = tiny.folder / "prompts"
    folder.mkdir()
    assert f"{folder} holds no prompt file" in error_line(tiny.run("predict", "--data.prompts", str(folder)))
    (folder / "a.txt").write_text("")
    assert f"{folder / 'a.txt'} is empty" in error_line(tiny.run("predict", "--data.prompts", str(folder)))


@pytest.mark.parametrize("where", ["a file", "in a file", "/proc/x"])
@pytest.mark.parametrize("command", ["predict", "test", "fit"])
def test_an_output_folder_that_cannot_be_written_is_named(
    tiny: Any, error_line: ErrorLine, command: str, where: str
) -> None:
    taken = tiny.folder / "taken"
    taken.write_text("mine")
    folder = {"a file": taken, "in a file": taken / "out"}.get(where, Path(where))
    if command == "fit":
        tiny.config["model"]["objective"] = {"class_path": "DiffusionForcing"}
        tiny.config["data"]["train_dataset"] = {"class_path": "WorldClips", "init_args": {"frames": 3}}
        tiny.config["trainer"] = {"max_steps": 1}
    else:
        tiny.config["model"]["metrics"] = [{"class_path": "WorldTruth"}]
    message = error_line(main([command, "--config", str(tiny.write()), "--output_dir", str(folder)]))
    assert str(folder) in message
    assert "--output_dir" in message
    assert taken.read_text() == "mine"


@pytest.mark.parametrize("size", [10, 20_000])
def test_a_disk_that_takes_no_more_ends_in_one_sentence(
    tiny: Any, capsys: pytest.CaptureFixture[str], size: int
) -> None:
    """Ten bytes are too few for the config, 20 kB for the video."""
    arguments = tiny.arguments("predict")
    with files_no_larger_than(size):
        code = main(arguments)
    stderr = capsys.readouterr().err
    assert code == 2, stderr
    assert "Traceback" not in stderr
    message = stderr.splitlines()[-1]
    assert message.startswith("rollforge: ")
    assert str(tiny.out) in message
    assert "File too large" in message
    nothing_looks_finished(tiny)


def test_a_disk_that_is_full_when_the_sheet_is_drawn_ends_in_one_sentence(
    tiny: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("PIL.Image.Image.save", full)
    code = tiny.run("predict", "--data.seconds", "0.5")
    stderr = capsys.readouterr().err
    assert code == 2, stderr
    assert stderr.splitlines()[-1].startswith("rollforge: ")
    assert "No space left on device" in stderr.splitlines()[-1]
    assert not list(tiny.out.glob("*.png"))


def weights(folder: Path, kind: str) -> Path:
    """A file that cannot be loaded into the tiny Pocket."""
    file = folder / "weights.safetensors"
    sizes = {"wrong shape": SMALL | {"ffn_dim": 48}, "too deep": SMALL | {"layers": 2}}
    save_file(Pocket(**sizes.get(kind, SMALL)).state_dict(), file)  # type: ignore[arg-type]
    whole = file.read_bytes()
    if kind == "cut off":
        file.write_bytes(whole[: len(whole) // 2])
    elif kind == "garbage":
        file.write_bytes(b"not a safetensors file at all" * 9)
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "not finite":
        broken = load_file(file)
        next(iter(broken.values())).view(-1)[0] = torch.nan
        save_file(broken, file)
    return file


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("cut off", "not a readable safetensors file"),
        ("garbage", "not a readable safetensors file"),
        ("empty", "not a readable safetensors file"),
        ("wrong shape", "expected [64"),
        ("too deep", "blocks.1."),
        ("not finite", "not finite"),
    ],
)
def test_weights_that_do_not_fit_are_named(tiny: Any, error_line: ErrorLine, kind: str, expected: str) -> None:
    file = weights(tiny.folder, kind)
    tiny.config["model"]["backbone"]["init_args"]["weights"] = str(file)
    message = error_line(tiny.run("predict"))
    assert str(file) in message
    assert expected in message
    assert not tiny.out.exists()


@pytest.mark.parametrize("text", ["model: [unclosed", "model: {a: 1\n  b", "just words", "a: b: c"])
def test_a_file_that_is_no_config_is_named(tiny: Any, error_line: ErrorLine, text: str) -> None:
    file = tiny.folder / "bad.yaml"
    file.write_text(text)
    message = error_line(main(["predict", "--config", str(file), "--output_dir", str(tiny.out)]))
    assert "bad.yaml" in message
    assert not tiny.out.exists()


@pytest.mark.parametrize("command", ["predict", "test", "fit", "compare"])
def test_a_config_that_is_not_there_is_named(tiny: Any, error_line: ErrorLine, command: str) -> None:
    vary = ["--vary", "model.policy=Window"] if command == "compare" else []
    message = error_line(main([command, "--config", "nowhere.yaml", *vary, "--output_dir", str(tiny.out)]))
    assert "nowhere.yaml" in message
    assert not tiny.out.exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["predct"], ["'predct'", "Did you mean 'predict'?", "fit"]),
        (["roll"], ["'roll'", "predict, test, fit"]),
        (["bench", "--policy", "RollingSnk"], ["'RollingSnk'", "Did you mean 'RollingSink'?"]),
        (["bench", "--policy", "Pocket"], ["Pocket is a backbone"]),
        (["compare", "--config", "any.yaml", "--vary", "Window,RollingSink"], ["--vary", "OPTION=VALUE"]),
        (["plugins", "show", "Windw"], ["'Windw'", "Did you mean 'Window'?"]),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(
    error_line: ErrorLine, arguments: list[str], expected: list[str]
) -> None:
    message = error_line(main(arguments))
    for words in expected:
        assert words in message


def test_an_option_that_no_command_has_gets_the_nearest_one(tiny: Any, error_line: ErrorLine) -> None:
    message = error_line(tiny.run("predict", "--data.secnds", "3"))
    assert "no option --data.secnds." in message
    assert "Did you mean '--data.seconds'?" in message


def test_fit_says_what_its_config_lacks(tiny: Any, error_line: ErrorLine) -> None:
    assert "model.objective" in error_line(tiny.run("fit"))
    nothing_looks_finished(tiny)


def test_fit_without_clips_says_so(tiny: Any, error_line: ErrorLine) -> None:
    tiny.config["model"]["objective"] = {"class_path": "DiffusionForcing"}
    assert "data.train_dataset" in error_line(tiny.run("fit"))


def test_a_part_of_a_plugin_that_cannot_be_imported_is_named(
    tiny: Any, error_line: ErrorLine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.syspath_prepend(str(tiny.folder))
    (tiny.folder / "rollforge_broken.py").write_text("raise RuntimeError('no such card')")
    info = tiny.folder / "rollforge_broken-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rollforge-broken\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[rollforge]\nbroken = rollforge_broken\n")
    tiny.config["model"]["policy"] = {"class_path": "Brocken"}
    registry.cache_clear()
    try:
        message = error_line(tiny.run("predict"))
    finally:
        registry.cache_clear()
        sys.modules.pop("rollforge_broken", None)
    assert "'Brocken'" in message
    assert "rollforge-broken 1.2: the plugin 'broken'" in caplog.text
    assert "no such card" in caplog.text
    nothing_looks_finished(tiny)


def test_the_process_ends_with_one_sentence_and_exit_code_two(tiny: Any) -> None:
    running = tiny.start("predict", "--model.policy", "RollingSnk")
    stdout, stderr = running.communicate(timeout=600)
    assert running.returncode == 2
    assert stdout == ""
    assert stderr.count("\n") == 1
    assert stderr.startswith("rollforge: ")
    assert "Did you mean 'RollingSink'?" in stderr


@pytest.mark.parametrize(
    ("part", "sizes"),
    [("backbone", {"dim": 65_536, "heads": 64, "layers": 40}), ("codec", {"width": 4_096, "channels": 4_096})],
)
def test_random_weights_larger_than_memory_are_refused_before_they_are_made(
    tiny: Any, error_line: ErrorLine, monkeypatch: pytest.MonkeyPatch, part: str, sizes: dict[str, int]
) -> None:
    monkeypatch.setattr("rollforge.commands.room.free_memory", lambda device: 4 * 2**30)
    for name, size in sizes.items():
        put(tiny.config, f"model.{part}.init_args.{name}", size)
    message = error_line(tiny.run("predict"))
    assert "would take" in message
    assert f"give model.{part} smaller sizes" in message


def test_several_machines_of_which_none_is_named(
    tiny: Any, error_line: ErrorLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    options = ["--trainer.num_nodes", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu"]
    assert "set MASTER_ADDR, MASTER_PORT and NODE_RANK" in error_line(tiny.run("predict", *options))
