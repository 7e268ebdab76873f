"""The parts of the page that say what was run: plans of policies, configs, commands, versions."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import yaml

from rollforge.comparison.page.html import folded, named, note, table
from rollforge.comparison.page.plans import plans
from rollforge.comparison.run_result import RunResult

HIDDEN = ("config", "output_dir", "overwrite", "resume", "force", "verbose")
"""Keys of a config that say how it is run, not what is run."""
HOW = (
    "Each row is a block being made, from the first at the top. From left to right is the time index at which "
    "something is read; its colour is what is read there, from the opening of the video "
    '<span class="ramp" aria-hidden="true"></span> to the latest block. The outlined cell is the block itself. Where '
    "colours do not follow the diagonal, old content stands in for the past."
)


def pictures(measured: Sequence[RunResult]) -> str:
    """The plans."""
    order = {point.label: n for n, point in enumerate(measured)}
    shown = []
    for plan in plans(measured):
        names = " ".join(named(order[label], label) for label in plan.labels)
        caption = (
            f"<strong>{names}</strong><br><code>{escape(plan.name)}</code><br><small>{escape(plan.description)}</small>"
        )
        shown.append(f'<figure class="card"><figcaption>{caption}</figcaption>{plan.picture}</figure>')
    return f'{note(HOW)}<div class="plans">{"".join(shown)}</div>'


def configs(measured: Sequence[RunResult]) -> str:
    """What differs, then everything."""
    flat = [dict(_leaves("", _bare(point.config))) for point in measured]
    keys = list(dict.fromkeys(key for each in flat for key in each))
    apart = [key for key in keys if len({repr(each.get(key)) for each in flat}) > 1]
    rows = [[f"<code>{escape(key)}</code>", *(escape(str(each.get(key, "-"))) for each in flat)] for key in apart]
    head = ["option", *(escape(point.label) for point in measured)]
    whole = []
    for n, point in enumerate(measured):
        text = yaml.safe_dump(dict(point.config), sort_keys=False, allow_unicode=True)
        whole.append(folded(named(n, point.label), f"<pre>{escape(text)}</pre>"))
    differs = table(head, rows) if rows else "<p>Nothing.</p>"
    return f"<h3>What differs</h3>{differs}<h3>Whole configs</h3>{''.join(whole)}"


def commands(measured: Sequence[RunResult], command: Sequence[str]) -> str:
    """How to make all of it again, and with what it was made."""
    each = [
        f"<dt>{named(n, point.label)}</dt><dd><pre>{escape(_commands(point))}</pre></dd>"
        for n, point in enumerate(measured)
    ]
    recorded = [dict(_leaves("", point.record.get("versions") or {})) for point in measured]
    keys = list(dict.fromkeys(key for one in recorded for key in one))
    rows = [[escape(key), escape(", ".join(dict.fromkeys(str(one.get(key, "-")) for one in recorded)))] for key in keys]
    alone = folded("Each point by itself", f"<dl>{''.join(each)}</dl>")
    versions = table(["what", "version"], rows)
    return f"<pre>{escape(shlex.join(command))}</pre>{alone}<h3>Versions and machine</h3>{versions}"


def _commands(point: RunResult) -> str:
    """What has trained a point, where it was trained, and what has rolled it."""
    return "\n".join(each for each in (point.trained, str(point.record.get("command", ""))) if each)


def _bare(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in HIDDEN}


def _leaves(path: str, value: Any) -> Iterable[tuple[str, Any]]:
    """Values by dotted path."""
    if isinstance(value, Mapping) and value:
        for key, each in value.items():
            yield from _leaves(f"{path}.{key}" if path else str(key), each)
    else:
        yield path, value
