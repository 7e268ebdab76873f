"""``rollforge plugins [list | show NAME [--plot] | new NAME | check NAME]``: the parts that a config can name."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rollforge.commands import COMMANDS
from rollforge.commands.arguments import Arguments, file, number, path
from rollforge.commands.new_plugin import create, part_name
from rollforge.commands.output import print_out
from rollforge.isolation import import_matplotlib
from rollforge.ranges import Count, NonNegative, described
from rollforge.registry import KINDS, Part, plugin_commands, registry
from rollforge.registry.guard import PluginError


def run(arguments: list[str]) -> None:
    """Lists the parts, shows or checks one, or writes a package with a new one."""
    parser = Arguments(prog="rollforge plugins", description="List every part that a config can name.")
    actions = parser.add_subparsers(dest="action")
    actions.add_parser("list", help="every part: kind, distribution and what it does (the default)")
    one = actions.add_parser("show", help="parameters of one part, with types and defaults")
    one.add_argument("name")
    one.add_argument("--plot", action="store_true", help="draw what the blocks read under a cache policy, as PNG")
    one.add_argument("--args", help="its arguments, as init_args in a config: '{context_blocks: 3}' (default: its own)")
    one.add_argument("--block", type=number(Count), default=3, help="frames of a block in the picture (default: 3)")
    one.add_argument("--sampler", help="the sampler of the picture, with its default arguments (default: FewStep)")
    one.add_argument("-o", "--output", type=file, help="the picture (default: NAME.png in this folder)")
    new = actions.add_parser("new", help="write a package with one part that works, to be changed")
    new.add_argument("name", help="lower-case words with hyphens: soft-sink makes rollforge-soft-sink with SoftSink")
    new.add_argument("--kind", choices=KINDS, required=True)
    new.add_argument("--folder", type=path, default=".", help="where the package's folder goes (default: here)")
    check = actions.add_parser("check", help="run the check of rollforge.testing on an installed part")
    check.add_argument("name")
    check.add_argument("-c", "--config", type=path, action="append", default=[], help="take the arguments from there")
    check.add_argument(
        "--tolerance", type=number(NonNegative), help="how far values may differ, for kinds that compare"
    )
    chosen, rest = parser.parse_known_args(arguments)
    if rest and not (chosen.action == "check" and chosen.config):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    import_matplotlib()
    if chosen.action == "new":
        text = readme(create(chosen.name, chosen.kind, Path(chosen.folder)), chosen.name)
    elif chosen.action == "check":
        text = _checked(chosen, rest)
    elif chosen.action == "show":
        registry().require(chosen.name)
        text = _plotted(chosen) if chosen.plot else show(registry().find(chosen.name))
    else:
        registry().load()
        text = listing()
    print_out(text + "\n")


def readme(folder: Path, name: str) -> str:
    """What to do with a new package."""
    part = part_name(name)
    return (
        f"{folder} holds the part {part}, its test and a config. Next:\n"
        f"  pip install -e {shlex.quote(str(folder))}\n  rollforge plugins check {part}"
    )


def _checked(chosen: Any, rest: list[str]) -> str:
    from rollforge.commands.check_part import check  # brings torch, which a list of names does without

    return check(chosen.name, chosen.config, rest, chosen.tolerance)


def _plotted(chosen: Any) -> str:
    from rollforge.commands.plan_command import plot

    return plot(chosen.name, chosen.args, chosen.block, chosen.sampler, chosen.output)


def listing() -> str:
    """All parts, grouped by kind."""
    found = registry()
    parts = [part for kind in KINDS for part in found.of(kind)]
    name, origin = (max(len(getattr(part, field)) for part in parts) for field in ("name", "origin"))
    lines = []
    for kind, purpose in KINDS.items():
        lines.append(f"\n{kind}: {purpose}")
        lines += [f"  {part.name:{name}}  {part.origin:{origin}}  {part.summary}" for part in found.of(kind)]
    if added := list(_commands()):
        lines.append("\ncommand: what `rollforge NAME` runs")
        lines += [f"  {command:{name}}  {own:{origin}}  {summary}" for command, own, summary in added]
    return "\n".join(lines).lstrip("\n")


def _commands() -> Iterator[tuple[str, str, str]]:
    """Name, distribution and docstring of each command of a plugin; one that cannot be imported is left out."""
    for name, command in plugin_commands(COMMANDS).items():
        try:
            yield name, command.origin, command.summary()
        except PluginError as error:
            registry().fail(f"{command.origin}: the command {name!r} cannot be used ({error}).")


def show(part: Part) -> str:
    """One part: where it comes from, its documentation, its parameters."""
    target = part.load()
    lines = [
        f"{part.name} ({part.kind}, from {part.origin})",
        f"class_path: {target.__module__}.{target.__qualname__}",
        "",
        inspect.getdoc(target) or "",
        "",
        "parameters:",
    ]
    signature = inspect.signature(target)
    parameters = [p for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    lines += [f"  {p.name}: {_type(p.annotation)} = {_default(p)}" for p in parameters] or ["  none"]
    return "\n".join(lines)


def _type(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return "any"
    return annotation if isinstance(annotation, str) else described(annotation)


def _default(parameter: inspect.Parameter) -> str:
    return "(required)" if parameter.default is inspect.Parameter.empty else repr(parameter.default)
