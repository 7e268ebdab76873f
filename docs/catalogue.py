"""Writes ``docs/catalogue.md`` and its pictures from ``docs/catalogue.yaml``: python docs/catalogue.py

Run it with the packages installed, or with them on ``PYTHONPATH`` as ``make catalogue`` does.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from rollforge.commands.plan_command import built, picture, titled
from rollforge.errors import UserError
from rollforge.registry import registry

DOCS = Path(__file__).parent
PICTURES = DOCS / "images" / "plans"
TEMPLATE = DOCS / "catalogue.template.txt"


def main() -> None:
    torch.set_num_threads(1)
    registry().load()
    rows = yaml.safe_load((DOCS / "catalogue.yaml").read_text())
    known = {(part.kind, part.name) for part in registry().parts.values()}
    missing = [row["part"] for row in rows if (row.get("kind", "cache"), row["part"]) not in known]
    if missing:
        sys.exit(f"These parts are not installed: {', '.join(missing)}.")
    only = sys.argv[1:]
    lines, shown = [], []
    for row in rows:
        name, costs = row["part"], row["costs"]
        if row.get("kind", "cache") == "cache":
            if not only or name in only:
                print(name, flush=True)  # noqa: T201 # a script that takes minutes
            reads = drawn(row) if not only or name in only else kept(name)
            costs = f"{reads} {costs.capitalize()}."
            shown.append(f"### {name}\n\n{reads}\n\n![Plan of {name}](images/plans/{name}.png)\n")
            name = f"[{name}](#{name.lower()})"
        cells = [name, row["reads"], costs, row["faithful"], row["origin"], row["licence"]]
        lines.append("| " + " | ".join(cells) + " |")
    text = TEMPLATE.read_text().replace("{rows}", "\n".join(lines)).replace("{pictures}", "\n".join(shown))
    (DOCS / "catalogue.md").write_text(text)


def drawn(row: dict[str, Any]) -> str:
    """The picture of a policy, and what it costs in words."""
    name, given = row["part"], row.get("args") or {}
    policy = built(registry().find(name), "policy", given)
    sampler = built(registry().find(row["sampler"]), "sampler", {}) if "sampler" in row else None
    try:
        return picture(policy, titled(name, given), PICTURES / f"{name}.png", sampler=sampler)
    except UserError as error:
        sys.exit(f"{name} cannot be drawn: {error}")


def kept(name: str) -> str:
    """What the page says of a policy whose picture stays as it is."""
    page = (DOCS / "catalogue.md").read_text() if (DOCS / "catalogue.md").is_file() else ""
    section = page.partition(f"### {name}\n\n")[2].partition("\n")[0]
    return section or sys.exit(f"The page has nothing of {name} yet; draw it too.")


if __name__ == "__main__":
    main()
