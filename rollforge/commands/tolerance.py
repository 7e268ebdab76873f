"""Callbacks of the user's own may fail; hours of rolling go on without them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

from lightning.pytorch import Callback

from rollforge.errors import UserError, ran_out

log = logging.getLogger(__name__)

HOOKS = [name for name in dir(Callback) if name.startswith("on_") or name in ("setup", "teardown")]


def tolerate(callback: Callback) -> None:
    """From its first exception on, a callback is no longer called; the exception is said."""
    failed: list[str] = []

    def tolerant(name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(hook)
        def call(*arguments: Any, **options: Any) -> Any:
            if failed:
                return None
            try:
                return hook(*arguments, **options)
            except Exception as error:
                if isinstance(error, UserError) or ran_out(error):
                    raise
                failed.append(name)
                log.warning(
                    "The callback %s raised %s in %s (%s); it is put out, and the rollout goes on.",
                    type(callback).__name__, type(error).__name__, name, error,
                )  # fmt: skip
                return None

        return call

    for name in HOOKS:
        if getattr(type(callback), name) is not getattr(Callback, name):
            setattr(callback, name, tolerant(name, getattr(callback, name)))
