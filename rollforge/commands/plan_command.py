"""``rollforge plugins show NAME --plot``: the plan of an installed cache policy as PNG."""

from __future__ import annotations

from argparse import ArgumentError
from pathlib import Path
from typing import Any

from rollforge import trust
from rollforge.commands.plan_picture import describe, draw, save
from rollforge.commands.plan_record import record
from rollforge.commands.sentences import sentence
from rollforge.doctor.parts import build
from rollforge.errors import UserError
from rollforge.files import safe_yaml
from rollforge.policies.base import CachePolicy
from rollforge.registry import Part, registry


def plot(name: str, arguments: str | None, block: int, sampler: str | None, output: Path | None) -> str:
    """Draws the plan of the policy ``name``. Returns what to say.

    Args:
        name: of a part of kind ``cache``.
        arguments: YAML or JSON, the ``init_args`` of a config.
        block: frames of a block.
        sampler: the name of another sampler than ``FewStep``.
        output: the picture. Default: ``NAME.png`` in the current folder.

    Raises:
        UserError: for a part that has no plan, arguments that do not fit, and a policy that a rollout refuses.
    """
    part = registry().find(name)
    if part.kind != "cache":
        raise UserError(
            f"{name} is a {part.kind}, and only a cache policy has a plan to draw; leave out --plot, or name a cache "
            "policy (rollforge plugins lists them)."
        )
    given = given_arguments(name, arguments)
    policy = built(part, "policy", given)
    chosen = None
    if sampler is not None:
        registry().require(sampler)
        if (other := registry().find(sampler)).kind != "sampler":
            raise UserError(
                f"--sampler is {sampler}, which is a {other.kind}; name a sampler, such as FewStep or Euler."
            )
        chosen = built(other, "sampler", {})
    recorded = record(policy, block, chosen)
    file = output or Path(f"{name}.png")
    save(draw(recorded, titled(name, given)), file)
    return f"{file}: {describe(recorded)}"


def given_arguments(name: str, text: str | None) -> dict[str, Any]:
    """What ``--args`` says. Raises ``UserError`` for anything but names with values."""
    found = safe_yaml.loads(text, "--args") if text else {}
    if not isinstance(found, dict):
        raise UserError(
            f"--args of {name} is {text!r:.60}; expected names with values, such as '{{context_blocks: 3}}'."
        )
    return found


def built(part: Part, name: str, given: dict[str, Any]) -> Any:
    """A part as a config with these ``init_args`` builds it. Raises ``UserError`` for arguments that it refuses."""
    target = part.load()
    config = {"class_path": f"{target.__module__}.{target.__qualname__}", "init_args": given}
    try:
        with trust.guarded(()):
            return build(name, config)
    except ArgumentError as error:
        raise UserError(sentence(str(error))) from error


def titled(name: str, given: dict[str, Any]) -> str:
    """The policy and its arguments, in a line."""
    return f"{name}({', '.join(f'{key}={_short(value)}' for key, value in given.items())})"


def _short(value: Any) -> str:
    if isinstance(value, dict) and "class_path" in value:
        return titled(str(value["class_path"]).rpartition(".")[2], value.get("init_args") or {})
    return f"{value}"


def picture(policy: CachePolicy, title: str, file: Path, block: int = 3, sampler: Any = None) -> str:
    """Draws a policy that is there already. Returns what it costs, in words."""
    recorded = record(policy, block, sampler)
    save(draw(recorded, title), file)
    return describe(recorded)
