"""Damaged configs, by the way that ``predict`` takes as far as the first part would be built."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from damage import changes, damaged, twisted
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from watch import answered, fuzz

from rollforge import trust
from rollforge.commands.parser import Parser
from rollforge.lightning.data import RolloutData
from rollforge.lightning.module import RolloutModule

CONFIG: dict[str, Any] = {
    "model": {
        "backbone": {"class_path": "Pocket", "init_args": {"dim": 32, "layers": 1, "weights": "random"}},
        "conditioner": {"class_path": "PocketText"},
        "codec": {"class_path": "PocketCodec", "init_args": {"width": 16, "weights": "random"}},
        "policy": {"class_path": "RollingSink", "init_args": {"context_blocks": 2, "sink_blocks": 1}},
        "sampler": {"class_path": "Euler", "init_args": {"steps": 1, "shift": 2.0}},
    },
    "data": {"prompts": ["a red ball", [{"prompt": "a box"}, {"at": "3s", "prompt": "a cone"}]], "seconds": 3.5},
    "trainer": {"accelerator": "cpu", "max_steps": 3},
}
SNIPPETS = [
    "!!int abc",
    "!!int ''",
    "!!float ''",
    "!!bool maybe",
    "!!null x",
    "!!int 0x" + "f" * 400,
    "!!float 1:x",
    "!!str {}",
    *(
        "!!python/object/apply:os.system [touch HERE]",
        "!!python/name:os.system",
        "!!binary aGk=",
        "!!timestamp 1",
        "!x y",
    ),
    *(
        "&a [*a]",
        "*nobody",
        "&b {<<: *b}",
        "{<<: [1]}",
        "? [a, b]",
        "{[1]: 2, {a: b}: c}",
        "!!set {a, a}",
        "!!omap [a]",
    ),
    *(
        "1e999",
        "-.inf",
        ".nan",
        "0x" + "f" * 400,
        "9" * 3000,
        "1:2:3:4",
        "0o777",
        "2024-99-99",
        "1_0",
        "٣",
        "-0",
        "1e-999",
    ),
    *(
        "[" * 70,
        "{a: " * 70,
        "[" * 50 + "]" * 50,
        "|\n  a\0b",
        "'\x1b[31m'",
        "\u202e'",
        '"\\ud800"',
        "\t- x",
        "%YAML 9.9",
    ),
    *("os.system", "builtins.eval", "subprocess.Popen", "{class_path: os.system, init_args: {command: touch HERE}}"),
    *(
        "https://example.org/x.yaml",
        "/etc/passwd",
        "config.yaml",
        "x" * 300 + ".yaml",
        "\0.yaml",
        "~/.x.json",
        "---\na: b",
    ),
]
LINES = yaml.safe_dump(CONFIG, sort_keys=False).splitlines()


@pytest.fixture(scope="module")
def parser() -> Iterator[Parser]:
    """Model, data and Trainer like those of ``predict``, without its subcommands, which take ten times as long."""
    with trust.guarded():
        made: Any = Parser()
        made.add_argument("--config", action="config")
        made.add_lightning_class_args(RolloutModule, "model")
        made.add_lightning_class_args(RolloutData, "data")
        made.add_lightning_class_args(Trainer, "trainer")
        yield made


def dumped(tree: Any) -> bytes:
    try:
        return yaml.safe_dump(tree, allow_unicode=True).encode(errors="surrogatepass")
    except RecursionError:
        return b""


def with_snippet(case: tuple[int, str, bool]) -> bytes:
    """The config with a snippet in place of a line's value, or as a line of its own."""
    line, snippet, below = case
    lines = list(LINES)
    key = lines[line].partition(":")[0]
    lines[line : line + 1] = [lines[line], snippet] if below else [f"{key}: {snippet}"]
    return "\n".join(lines).encode(errors="surrogatepass")


def test_configs(tmp_path: Path, parser: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file, good = tmp_path / "config.yaml", "\n".join(LINES).encode()
    modules = set(sys.modules)

    def parsed(arguments: list[str]) -> Any:
        with trust.guarded():
            return parser.parse_args(arguments)

    def right(config: Any) -> None:
        assert isinstance(config.data.seconds, (int, float))
        assert config.model.backbone.class_path.startswith("rollforge.")
        assert config.trainer.max_steps is None or isinstance(config.trainer.max_steps, int)

    def door(case: tuple[bytes, list[str]]) -> str:
        content, more = case
        file.write_bytes(content)
        return answered(lambda: parsed(["--config", str(file), *more]), right)

    contents = st.one_of(
        changes(len(good)).map(lambda made: damaged(good, made)),
        twisted(CONFIG).map(dumped),
        st.tuples(st.integers(0, len(LINES) - 1), st.sampled_from(SNIPPETS), st.booleans()).map(with_snippet),
    )
    options = [
        "model.policy",
        "model.policy.class_path",
        "model.backbone.init_args.dim",
        "data.prompts",
        "data.seconds",
    ]
    option = st.tuples(st.sampled_from(options), st.sampled_from(SNIPPETS) | st.text(max_size=9))
    as_option = option.map(lambda each: (good, [f"--{each[0]}={each[1]}"]))
    fuzz("configs", 150, st.tuples(contents, st.just([])) | as_option, door)
    assert [each.name for each in tmp_path.iterdir()] == ["config.yaml"]
    new = {name.partition(".")[0] for name in set(sys.modules) - modules}
    assert not new & {"antigravity", "this"}
