"""Another class for a part starts with its own defaults, not with the arguments of the class before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jsonargparse import _typehints


@contextmanager
def own_defaults() -> Iterator[None]:
    """While it is open, jsonargparse drops every argument of a class when a later config or option names another one.

    By itself it keeps those whose names the other class happens to have too, and has no public switch for that.
    """
    former = _typehints.discard_init_args_on_class_path_change
    _typehints.discard_init_args_on_class_path_change = _drop
    try:
        yield
    finally:
        _typehints.discard_init_args_on_class_path_change = former


def _drop(parser: Any, before: Any, now: Any) -> None:
    """Empties the arguments ``before`` where ``now`` is of another class. Takes what jsonargparse's own takes."""
    if before and "init_args" in before and before["class_path"] != now["class_path"]:
        for key in [*before["init_args"].keys()]:
            before["init_args"].pop(key)
