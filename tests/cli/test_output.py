"""Standard output that is closed, full or read by nobody, and the config that a run saves for the next command."""

from __future__ import annotations

import errno
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rollforge.cli import main
from rollforge.commands.output import print_error, print_out
from rollforge.files.streams import Tolerant

HELP = f"{sys.executable} -m rollforge --help"


@pytest.mark.parametrize(
    ("line", "code", "expected"),
    [
        (f"{HELP} | head -1 > /dev/null; exit ${{PIPESTATUS[0]}}", 0, ""),
        (f"{HELP} >&-", 0, ""),
        (f"{HELP} > /dev/full", 2, "Standard output cannot be written (No space left on device)"),
        (f"{sys.executable} -m rollforge nope 2>&-", 2, ""),
        (f"{sys.executable} -m rollforge nope > /dev/null 2> /dev/full", 2, ""),
    ],
)
def test_closed_or_full_output_ends_without_a_traceback(line: str, code: int, expected: str) -> None:
    ended = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == code
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
    assert expected in ended.stderr
    assert len(ended.stderr.splitlines()) == bool(expected)


def test_text_after_the_reader_has_gone_is_dropped() -> None:
    reader, writer = os.pipe()
    stream = Tolerant(io.TextIOWrapper(os.fdopen(writer, "wb")))
    os.close(reader)
    for _ in range(3):
        assert stream.write("a frame\n") == 8
        stream.flush()
    assert stream.error is not None
    assert stream.error.errno == errno.EPIPE
    stream.stream.close()  # raises if anything were still to be written


def test_saved_config_is_accepted_by_every_command_and_starts_nothing_again(tiny: Any, tmp_path: Path) -> None:
    assert tiny.run("predict", "--overwrite", "true", "--resume", "--force", "--snapshots.latents", "true") == 0
    saved = tiny.out / "config.yaml"
    assert {"overwrite", "resume", "force", "config"}.isdisjoint(yaml.safe_load(saved.read_text()))
    video = tiny.videos()[0].removesuffix(".mp4")
    to = ["--config", str(saved), "--output_dir"]
    training = [
        "--model.objective",
        "DiffusionForcing",
        "--data.train_dataset",
        "WorldClips",
        "--data.train_dataset.frames",
        "6",
    ]
    assert main(["test", *to, str(tmp_path / "measured")]) == 0
    assert main(["decode", str(tiny.out / "latents" / video), "--config", str(saved), "--device", "cpu"]) == 0
    assert main(["doctor", "--config", str(saved), "--probe_seconds", "0.1"]) == 0
    fitted = ["--data.batch_size", "1", "--trainer.max_steps", "1"]
    assert main(["fit", *to, str(tmp_path / "fitted"), *training, *fitted]) == 0
    saved = tmp_path / "fitted" / "config.yaml"
    assert main(["predict", "--config", str(saved), "--output_dir", str(tmp_path / "rolled")]) == 0


def test_command_for_a_longer_video_repeats_what_was_typed(
    tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shots = "[{prompt: a red ball over snow at day}, {at: 1s, prompt: a red ball over snow at night}]"
    typed = ["--data.prompts", f"[{shots}]", "--data.seconds=2", "--overwrite", "true"]
    assert tiny.run("predict", *typed) == 0
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    config, folder = str(tmp_path / "tiny.yaml"), str(tiny.out)
    assert command == [
        *("rollforge", "predict", "--config", config, "--data.prompts", f"[{shots}]"),
        *("--data.seconds", "4", "--output_dir", f"{folder}-longer"),
    ]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "a/b.mp4"), "a/b.mp4 cannot be used (Permission denied)"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a.txt/b"), "a.txt/b cannot be used (Not a directory)"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a" * 300), "(File name too long)"),
        (ConnectionResetError("reset by peer"), "The system refused an operation (reset by peer)"),
        (MemoryError(), "The memory ran out (MemoryError)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "The memory ran out (Default"),
    ],
)  # fmt: skip
def test_failure_of_file_or_memory_that_no_part_explains_is_one_sentence(
    error: Exception, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr("rollforge.commands.plugins.run", broken)
    assert main(["plugins"]) == 2
    stderr = capsys.readouterr().err
    assert expected in stderr
    assert len(stderr.splitlines()) == 1


def test_error_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(arguments: list[str]) -> int:
        raise RuntimeError("a bug")

    monkeypatch.setattr("rollforge.commands.plugins.run", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["plugins"])


def test_names_with_control_characters_are_written_out_wherever_they_are_logged() -> None:
    code = "import logging, rollforge.cli as cli; cli.main([]);"
    code += "logging.getLogger('rollforge.x').warning('%s is left out', 'a\\x1b[2J\\u202eb.txt')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert ended.stderr == "a\\x1b[2J\\u202eb.txt is left out\n"


def test_names_with_control_characters_are_written_out_in_what_commands_say(capsys: pytest.CaptureFixture[str]) -> None:
    print_out("a\x1b[2J\nb\tc\n")
    print_error("\x9b\u2066d\n")
    assert capsys.readouterr() == ("a\\x1b[2J\nb\\tc\n", "\\x9b\\u2066d\n")
