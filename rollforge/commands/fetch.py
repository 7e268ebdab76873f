"""``rollforge fetch``: which files a config needs and how to download them, or their download."""

from __future__ import annotations

from typing import Any

from jsonargparse import Namespace

from rollforge import trust
from rollforge.backbones.wan.published import WHO, Need, needs
from rollforge.commands.arguments import Arguments, path
from rollforge.commands.lightning import _quiet
from rollforge.commands.output import print_out
from rollforge.commands.parsed import ParsedCLI
from rollforge.commands.typed import read
from rollforge.errors import UserError

PARTS = ("backbone", "conditioner", "codec", "finish")


def run(arguments: list[str]) -> int:
    """Prints or runs the downloads. The exit code is 1 where a file is missing and nobody knows its source."""
    parser = Arguments(
        prog=WHO,
        description="Print the commands that download what a config needs. Takes what `rollforge predict` takes.",
    )
    parser.add_argument("config", type=path, help="the YAML whose files are wanted")
    parser.add_argument("--run", action="store_true", help="download them, instead of printing how")
    chosen, rest = parser.parse_known_args(arguments)
    typed = read([f"--config={chosen.config}", *rest])
    _quiet()
    with trust.guarded(typed.modules):
        model = ParsedCLI("predict", typed).chosen.model
    parts = {part: _described(model.get(part)) for part in PARTS}
    found = needs(parts)
    missing = [need for need in found if not need.here]
    for need in found:
        _print(f"{'here' if need.here else 'missing':8} {need.option}: {need.name!r}")
    if chosen.run:
        _download(missing)
        if lost := [need.name for need in needs(parts) if need.folder and not need.here]:
            raise UserError(f"{WHO}: {lost[0]} is still not complete; check the network, and run it again.")
    elif missing:
        _commands(missing, chosen.config)
    return 1 if any(need.source is None for need in missing) else 0


def _described(part: Any) -> tuple[str, dict[str, Any]]:
    """Class name and arguments of a part of the config."""
    if not isinstance(part, Namespace):
        return "", {}
    return part.class_path.rpartition(".")[2], vars(part.get("init_args", Namespace()))


def _commands(missing: list[Need], config: str) -> None:
    known = [need.source.command(need.patterns, need.folder) for need in missing if need.source]
    if known:
        _print("\nDownload with:\n" + "\n".join(f"  {command}" for command in known))
        _print(f"Or let rollforge do it:\n  rollforge fetch {config} --run")
    for need in missing:
        if need.source is None:
            _print(f"Where {need.name!r} is published is not known; put it there, or name another file.")


def _download(missing: list[Need]) -> None:
    for need in missing:
        if need.source is None:
            raise UserError(f"{WHO}: where {need.name} is published is not known; put it there, or name another file.")
        _print(f"Downloading {need.source}")
        _print(f"  {need.source.download(need.patterns, WHO, folder=need.folder, option=need.option)}")


def _print(text: str) -> None:
    print_out(f"{text}\n")
