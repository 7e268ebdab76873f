"""Callbacks of the user may fail: a rollout continues without them, training ends with a one-line error."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import _TunerExitException

from rollforge.errors import PartError, UserError, ran_out

log = logging.getLogger(__name__)

HOOKS = [name for name in dir(Callback) if name.startswith("on_") or name in ("setup", "teardown")]
HOOKS.append("on_block")  # which RolloutModule calls
Hook = Callable[..., Any]


def isolate(callback: Callback) -> None:
    """Disables a callback after its first exception, which is logged."""
    failed: list[str] = []

    def tolerant(name: str, hook: Hook) -> Hook:
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
                    "The callback %s raised %s in %s (%s); it is disabled, and the rollout continues.",
                    type(callback).__name__, type(error).__name__, name, error,
                )  # fmt: skip
                return None

        return call

    _wrap(callback, tolerant)


def attribute(callback: Callback) -> None:
    """An exception of a callback ends the command with a one-line error that names it."""

    def attributed(name: str, hook: Hook) -> Hook:
        @wraps(hook)
        def call(*arguments: Any, **options: Any) -> Any:
            try:
                return hook(*arguments, **options)
            except Exception as error:
                if isinstance(error, (UserError, _TunerExitException)) or ran_out(error):
                    raise
                first = (str(error).strip() or "no message").splitlines()[0].rstrip(".")
                raise PartError(
                    f"The callback {type(callback).__name__} raised {type(error).__name__} in {name} ({first}); change "
                    "it, or take it out of trainer.callbacks."
                ) from error

        return call

    _wrap(callback, attributed)


def _wrap(callback: Callback, around: Callable[[str, Hook], Hook]) -> None:
    """Wraps every hook that a callback overrides."""
    for name in HOOKS:
        if getattr(type(callback), name, None) is not getattr(Callback, name, None):
            setattr(callback, name, around(name, getattr(callback, name)))
