"""Errors that a user can mend, and the nearest valid spelling of a name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """What was wrong, what was expected and how to mend it, in one sentence. The command line shows no traceback."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` when a known name is close, else nothing."""
    names = list(known)
    lower = {name.lower(): name for name in names}
    close = get_close_matches(word.lower(), lower, n=1, cutoff=0.5)
    return f" Did you mean {lower[close[0]]!r}?" if close else ""
