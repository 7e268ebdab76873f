"""Commands of plugins: listed without an import, run by name, and left out where they are broken."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rollforge.cli import main
from rollforge.registry import registry

WAVE = """
def run(arguments):
    \"\"\"Greets the person named.

    More.
    \"\"\"
    if arguments == ["--fail"]:
        raise ValueError("out of hands")
    if arguments == ["--text"]:
        return "done"
    print("hello", *arguments)
    return 3 if arguments else None
"""
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a distribution with one module and its commands on the path."""
    monkeypatch.delenv("ROLLFORGE_PLUGINS", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.cache_clear()
    modules: list[str] = []

    def add(name: str, code: str, *commands: str) -> None:
        module = f"rollforge_{name}"
        (tmp_path / f"{module}.py").write_text(code)
        info = tmp_path / f"{module}-1.2.dist-info"
        info.mkdir()
        about = f"Name: rollforge-{name}\nVersion: 1.2\nSummary: Says {name}.\n"
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\n{about}")
        entries = "".join(f"{command} = {module}:run\n" for command in commands)
        (info / "entry_points.txt").write_text(f"[rollforge.commands]\n{entries}")
        modules.append(module)

    yield add
    registry.cache_clear()
    for module in modules:
        sys.modules.pop(module, None)


def test_a_command_is_listed_without_being_imported_and_gets_its_arguments(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("wave", WAVE, "wave")
    assert main([]) == 0
    assert "\n  wave         Says wave. (rollforge-wave 1.2)" in capsys.readouterr().out
    assert "rollforge_wave" not in sys.modules
    assert main(["wave"]) == 0
    assert main(["wave", "--seconds", "3"]) == 3
    assert capsys.readouterr().out == "hello\nhello --seconds 3\n"
    assert main(["wav"]) == 2
    assert "Did you mean 'wave'?" in capsys.readouterr().err


def test_plugins_lists_commands_and_names_those_that_are_broken(
    install: Install, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    install("wave", WAVE, "wave")
    install("torn", "import nothing_of_that_name", "torn")
    install("empty", "", "empty")
    assert main(["plugins"]) == 0
    assert [line.split(maxsplit=3) for line in capsys.readouterr().out.splitlines() if "rollforge-wave" in line] == [
        ["wave", "rollforge-wave", "1.2", "Greets the person named."]
    ]
    assert "Plugin problem: rollforge-torn 1.2: the command 'torn' cannot be used (ModuleNotFoundError" in caplog.text
    assert "Plugin problem: rollforge-empty 1.2: the command 'empty' cannot be used (AttributeError" in caplog.text


@pytest.mark.parametrize(
    ("code", "arguments", "expected"),
    [
        ("import nothing_of_that_name", [], "The command wave of rollforge-wave 1.2 cannot be used (ModuleNotFoundErr"),
        ("import sys; sys.exit(0)", [], "cannot be used (SystemExit: 0)"),
        ("run = 3", [], "cannot be used (rollforge_wave:run is 3; expected a function)"),
        (f"rollforge_api = 99\n{WAVE}", [], "cannot be used (it is written for API 99"),
        (WAVE, ["--fail"], "The command wave of rollforge-wave 1.2 raised ValueError (out of hands); report that"),
        (WAVE, ["--text"], "The command wave of rollforge-wave 1.2 returned 'done'; expected an exit code or None."),
    ],
)
def test_a_broken_command_is_one_sentence(
    install: Install, capsys: pytest.CaptureFixture[str], code: str, arguments: list[str], expected: str
) -> None:
    install("wave", code, "wave")
    assert main(["wave", *arguments]) == 2
    stderr = capsys.readouterr().err
    assert expected in stderr
    assert stderr.count("\n") == 1


def test_no_command_replaces_another(
    install: Install, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    install("one", WAVE, "wave", "predict", "Wave Once")
    install("two", WAVE, "wave")
    assert main(["nothing"]) == 2
    assert sorted(caplog.messages) == [
        "Plugin problem: rollforge-one 1.2 has a command 'predict', a name that rollforge has taken; it was skipped.",
        "Plugin problem: rollforge-one 1.2: a command cannot be called 'Wave Once'; it was skipped.",
        "Plugin problem: rollforge-two 1.2 has a command 'wave', a name that rollforge-one 1.2 has taken; it was "
        "skipped.",
    ]
    assert capsys.readouterr().err.endswith("plugins, wave.\n")


@pytest.mark.parametrize(("limit", "code"), [("", 2), ("other", 2), ("wave", 0)])
def test_the_environment_limits_commands(
    install: Install, monkeypatch: pytest.MonkeyPatch, limit: str, code: int
) -> None:
    install("wave", WAVE, "wave")
    monkeypatch.setenv("ROLLFORGE_PLUGINS", limit)
    assert main(["wave"]) == code
    registry.cache_clear()
    assert registry().failures == (
        ["ROLLFORGE_PLUGINS names 'other', which is not installed."] if limit == "other" else []
    )
