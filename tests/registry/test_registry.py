"""The plugin layer: one door for every part, and what happens to a plugin that cannot come in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from rollforge import API, trust
from rollforge.cli import main
from rollforge.errors import UserError
from rollforge.policies import CachePolicy
from rollforge.registry import BUILT_IN, KINDS, Registry, builtins, guard, registry

GOOD = """
from rollforge.policies import Window
from rollforge.registry import hookimpl

class {name}(Window):
    \"\"\"Sees one block less than it is told.\"\"\"

@hookimpl
def rollforge_register_cache(register):
    register({name})
"""
Install = Callable[..., None]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("ROLLFORGE_PLUGINS", raising=False)
    registry.cache_clear()
    yield
    registry.cache_clear()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a distribution with one module and one entry point on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    modules: list[str] = []

    def add(name: str, code: str, version: str = "1.2") -> None:
        module = f"rollforge_{name}"
        (tmp_path / f"{module}.py").write_text(code)
        info = tmp_path / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: rollforge-{name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[rollforge]\n{name} = {module}\n")
        modules.append(module)

    yield add
    for module in modules:
        sys.modules.pop(module, None)


def names(found: Registry, kind: str = "cache") -> list[str]:
    return [part.name for part in found.of(kind)]


def test_built_ins_register_through_the_same_hooks_as_anyone() -> None:
    found = registry()
    for kind in KINDS:
        targets: list[type | str] = []
        getattr(builtins, f"rollforge_register_{kind}")(targets.append)
        assert targets
        assert [part.target for part in found.of(kind) if part.origin == BUILT_IN] == targets
    assert not [part for part in found.parts.values() if part.origin != BUILT_IN]


def test_every_built_in_can_be_imported_and_has_a_name_and_a_docstring_of_its_own() -> None:
    parts = list(registry().parts.values())
    for part in parts:
        assert part.load().__name__ == part.name
        assert part.summary.endswith((".", ";", ":")), part
    assert len({part.name for part in parts}) == len(parts)


def test_a_plugin_adds_its_parts_beside_the_built_ins(install: Install) -> None:
    install("good", GOOD.format(name="Shy"))
    found = registry()
    (part,) = [part for part in found.of("cache") if part.origin != BUILT_IN]
    assert (part.name, part.origin) == ("Shy", "rollforge-good 1.2")
    assert part.load().__module__ == "rollforge_good"
    assert found.failures == []


def test_a_plugin_of_version_0_1_registers_its_rotary_embedding_as_positions(install: Install) -> None:
    code = GOOD.format(name="Slow").replace("policies import Window", "memory import Rope as Window")
    install("old", code.replace("register_cache", "register_rope"))
    assert [part.name for part in registry().of("positions") if part.origin != BUILT_IN] == ["Slow"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise RuntimeError('no such card')", "RuntimeError: no such card"),
        ("import a_module_that_is_not_there", "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"),
        (GOOD.format(name="Half") + "    raise ValueError('half way')", "ValueError: half way"),
        (GOOD.format(name="Odd").replace("register_cache", "register_cash"), "rollforge_register_cash"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("class Own(BaseException): ...\nraise Own('so')", "Own: so"),
        (
            "while True:\n    try:\n        1 / 0\n    except Exception:\n        pass",
            "TooSlow: it takes more than 0.3",
        ),
        (
            "def deep():\n    raise OSError('libx.so is\\nnot there')\n"
            "try:\n    deep()\nexcept OSError as error:\n    raise RuntimeError('no\\ncard') from error",
            "RuntimeError: no card, caused by OSError: libx.so is not there",
        ),
        (GOOD.format(name="Odd").replace("@hookimpl", ""), "its function rollforge_register_cache is not marked"),
        (f"rollforge_api = {API + 1}\n" + GOOD.format(name="Odd"), f"it is written for API {API + 1} of rollforge"),
        ("rollforge_api = 0\n" + GOOD.format(name="Odd"), "serves none below"),
        ("rollforge_api = '1'\n" + GOOD.format(name="Odd"), "it must be a whole number"),
        (GOOD.format(name="Odd") + "    register(3)", "it registers 3; expected a class, or 'package.module:Class'"),
        (GOOD.format(name="Odd") + "    register('x')", "it registers 'x'; expected a class"),
    ],
)
def test_a_plugin_that_fails_is_named_and_skipped_whole(
    install: Install, code: str, reason: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "SECONDS", 0.3)
    install("bad", code)
    install("good", GOOD.format(name="Shy"))
    found = registry()
    assert len(found.failures) == 1
    assert found.failures[0].startswith("rollforge-bad 1.2: the plugin 'bad' (rollforge_bad) was skipped (")
    assert reason in found.failures[0]
    assert names(found) == ["Window", "AttentionSink", "SlidingIndices", "RollingSink", "LongLive", "Shy"]

    registry.cache_clear()
    assert main(["plugins"]) == 0
    printed = capsys.readouterr()
    assert "Shy" in printed.out
    assert "Traceback" not in printed.out + printed.err


def test_a_part_that_cannot_be_imported_is_dropped_alone(install: Install) -> None:
    lazy = "    register('rollforge_lazy_parts:Missing')\n"
    install("lazy", GOOD.format(name="Shy") + lazy)
    found = registry()
    found.load()
    assert names(found)[-1] == "Shy"
    assert len(found.failures) == 1
    assert "rollforge-lazy 1.2: the cache 'Missing' cannot be used" in found.failures[0]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("    register(Metric)", "it is not a subclass of rollforge.policies.base.CachePolicy"),
        ("    register('rollforge_wrong:make')", "it is not a subclass of rollforge.policies.base.CachePolicy"),
        ("    register('rollforge_wrong_exit:Part')", "SystemExit: 4"),
    ],
)
def test_a_part_that_is_not_one_is_dropped_alone(
    install: Install, more: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rollforge_wrong_exit.py").write_text("raise SystemExit(4)")
    install("wrong", GOOD.format(name="Shy") + more + "\nfrom rollforge.metrics import Metric\ndef make(): ...\n")
    assert main(["plugins"]) == 0
    assert "rollforge-wrong 1.2  Sees one block less" in capsys.readouterr().out
    assert len(registry().failures) == 1
    assert reason in registry().failures[0]


def test_only_the_parts_that_a_config_names_are_imported(install: Install, tmp_path: Path) -> None:
    parts = "    register('rollforge_used:Used')\n    register('rollforge_unused:Unused')\n"
    install("two", f"rollforge_api = {API}\n" + GOOD.format(name="Shy") + parts)
    for name in ("Used", "Unused"):
        (tmp_path / f"rollforge_{name.lower()}.py").write_text(GOOD.format(name=name).partition("@hookimpl")[0])
    with trust.guarded():
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--policy", type=CachePolicy)
        for named in ("Used", "rollforge_used.Used"):
            assert parser.parse_object({"policy": {"class_path": named}}).policy.class_path == "rollforge_used.Used"
        assert "rollforge_unused" not in sys.modules
        assert not trust.refused("rollforge_unused.Unused")
    assert registry().failures == []


def test_a_config_that_names_a_part_that_cannot_be_imported_is_told_why(install: Install) -> None:
    install("lazy", GOOD.format(name="Shy") + "    register('rollforge_lazy_parts:Missing')\n")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--policy", type=CachePolicy)
    with trust.guarded(), pytest.raises(UserError, match=r"the cache 'Missing' cannot be used \(ModuleNotFoundError"):
        parser.parse_object({"policy": {"class_path": "Missing"}})


def test_what_a_plugin_prints_is_kept_from_standard_output(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("loud", GOOD.format(name="Shy") + "print('Welcome!')")
    assert main(["plugins"]) == 0
    printed = capsys.readouterr().out
    assert "Shy" in printed
    assert "Welcome!" not in printed
    (message,) = registry().failures
    assert message.startswith("rollforge-loud 1.2 prints when it is imported")
    assert "Welcome!" in message


def test_no_plugin_takes_a_name_that_is_taken(install: Install) -> None:
    install("thief", GOOD.format(name="RollingSink"))
    found = registry()
    assert found.find("RollingSink").origin == BUILT_IN
    assert names(found).count("RollingSink") == 1
    assert len(found.failures) == 1
    for word in ("rollforge-thief 1.2", "'RollingSink'", "already taken"):
        assert word in found.failures[0]


@pytest.mark.parametrize(
    ("limit", "loaded"), [("", []), ("two", ["Two"]), (" two , one ", ["One", "Two"]), (None, ["One", "Two"])]
)
def test_the_environment_limits_which_plugins_load(
    install: Install, monkeypatch: pytest.MonkeyPatch, limit: str | None, loaded: list[str]
) -> None:
    install("one", GOOD.format(name="One"))
    install("two", GOOD.format(name="Two"))
    if limit is not None:
        monkeypatch.setenv("ROLLFORGE_PLUGINS", limit)
    found = registry()
    assert [part.name for part in found.of("cache") if part.origin != BUILT_IN] == loaded
    assert found.failures == []
    assert len(entry_points(group="rollforge")) == 2


def test_the_environment_cannot_name_a_plugin_that_is_not_there(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("wobble", GOOD.format(name="Wobble"))
    monkeypatch.setenv("ROLLFORGE_PLUGINS", "woble")
    assert registry().failures == ["ROLLFORGE_PLUGINS names 'woble', which is not installed. Did you mean 'wobble'?"]


@pytest.mark.parametrize(
    ("wrong", "right"), [("RollingSnk", "RollingSink"), ("rollingsink", "RollingSink"), ("PocketCodek", "PocketCodec")]
)
def test_a_misspelt_name_gets_the_nearest_right_one(wrong: str, right: str) -> None:
    with pytest.raises(UserError, match=f"{wrong!r}. Did you mean {right!r}"):
        registry().find(wrong)


def test_plugins_lists_every_part_with_kind_distribution_and_docstring(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("good", GOOD.format(name="Shy"))
    assert main(["plugins"]) == 0
    lines = capsys.readouterr().out.splitlines()
    kinds = [line.partition(":")[0] for line in lines if line and not line.startswith(" ")]
    assert kinds == list(KINDS)
    parts = [part for kind in KINDS for part in registry().of(kind)]
    listed = [line for line in lines if line.startswith("  ")]
    assert len(listed) == len(parts)
    for part, line in zip(parts, listed, strict=True):
        assert line.split()[0] == part.name
        assert f"  {part.origin}  " in line + "  "
        assert line.endswith(f"  {part.summary}")
    shy = lines.index(next(line for line in lines if line.split()[:1] == ["Shy"]))
    assert lines[shy].split(maxsplit=3) == ["Shy", "rollforge-good", "1.2", "Sees one block less than it is told."]
    assert next(line for line in reversed(lines[:shy]) if not line.startswith(" ")).startswith("cache:")


def test_plugins_list_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins"]) == 0
    default = capsys.readouterr().out
    assert main(["plugins", "list"]) == 0
    assert capsys.readouterr().out == default


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise RuntimeError('no card')", "the plugin 'bad' (rollforge_bad) was skipped (RuntimeError: no card)."),
        (
            GOOD.format(name="Shy") + "    register('rollforge_bad_parts:Missing')",
            "the cache 'Missing' cannot be used (ModuleNotFoundError: No module named 'rollforge_bad_parts').",
        ),
    ],
)
def test_plugins_says_what_was_skipped_and_why(
    install: Install, code: str, message: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    install("bad", code)
    assert main(["plugins"]) == 0
    printed = capsys.readouterr()
    assert f"rollforge-bad 1.2: {message}" in printed.out + printed.err + caplog.text


def test_plugins_show_prints_parameters_with_types_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "show", "RollingSink"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "RollingSink (cache, from rollforge)"
    assert "class_path: rollforge.policies.rolling_sink.RollingSink" in lines
    assert lines[lines.index("parameters:") + 1 :] == [
        "  context_blocks: a whole number of 1 or more = 6",
        "  sink_blocks: a whole number of 0 or more = 5",
    ]


def test_plugins_show_says_what_is_required_and_what_has_no_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "show", "VideoClips"]) == 0
    shown = capsys.readouterr().out
    assert "  folder: a path = (required)\n" in shown
    assert "  stride: a whole number of 1 or more = 1\n" in shown
    assert main(["plugins", "show", "PocketText"]) == 0
    assert capsys.readouterr().out.endswith("parameters:\n  none\n")


def test_plugins_show_of_an_unknown_name_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "show", "RollingSnk"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("rollforge: There is no part called 'RollingSnk'. Did you mean 'RollingSink'?")
