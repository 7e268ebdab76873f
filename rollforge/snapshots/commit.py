"""The commit that this package is at, read from files: git itself would obey settings that lie in the folder."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from rollforge.isolation import HOME

HASH = re.compile(r"[0-9a-f]{40,64}")


@cache
def commit() -> str | None:
    """Of the checkout that the package is imported from, or of the repository that pip installed it from.

    None where neither is known. Changes that were not committed are not seen.
    """
    with suppress(OSError, ValueError):
        if found := of_checkout(HOME):
            return found
    with suppress(PackageNotFoundError, ValueError, KeyError, TypeError):
        return str(json.loads(distribution("rollforge").read_text("direct_url.json") or "")["vcs_info"]["commit_id"])
    return None


def of_checkout(folder: Path) -> str | None:
    """The commit of the git checkout at ``folder``, None where there is none."""
    git = folder / ".git"
    if git.is_file():  # a worktree, or a submodule
        git = folder / git.read_text().partition("gitdir:")[2].strip()
    if not (git / "HEAD").is_file():
        return None
    head = (git / "HEAD").read_text().strip()
    name = head.removeprefix("ref: ")
    if name == head:
        return head if HASH.fullmatch(head) else None
    shared = git / (git / "commondir").read_text().strip() if (git / "commondir").is_file() else git
    for place in (git / name, shared / name):
        if place.is_file() and HASH.fullmatch(found := place.read_text().strip()):
            return found
    packed = (shared / "packed-refs").read_text() if (shared / "packed-refs").is_file() else ""
    named = re.search(rf"^([0-9a-f]{{40,64}}) {re.escape(name)}$", packed, re.MULTILINE)
    return named[1] if named else None
