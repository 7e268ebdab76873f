"""Addresses in a config: no path leads to another machine, and no service is reported to that nobody typed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Set
from typing import Any

from jsonargparse import Namespace

from rollforge.errors import UserError

TEXTS = ("data.prompts", "model.negative_prompt", "config")
"""What is not a path, whatever it looks like."""
SERVICES = "trainer."
"""The section whose parts may report to a service, if the command line says so."""
REGISTRY = "trainer.model_registry"
"""A service in any case: checkpoints are sent there."""
ADDRESS = re.compile(r"://|^[\w+.-]+::")
HOST = re.compile(r"^[\w.-]*[a-zA-Z][\w.-]*:\d{2,5}(/|$)")
"""A machine and its port, as proxies are written."""


def check_addresses(config: Any, typed: Set[str]) -> None:
    """Raises ``UserError`` for an address in a parsed config, unless it is in ``typed`` or the environment and one of
    the trainer's."""
    for key, value in _texts(config):
        service = key.startswith(SERVICES)
        found = ADDRESS.search(value) or (service and HOST.search(value)) or key == REGISTRY
        if key.startswith(TEXTS) or not found:
            continue
        if not service:
            raise UserError(f"{key} must be a path on this machine, not the address {value}; fetch what is there.")
        if value not in typed and value not in os.environ.values():
            raise UserError(
                f"The config names the address {value} at {key}, and a config cannot send anything to another machine; "
                f"if you want that, type it: --{key}={value}."
            )


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a config with its key; keys of mappings too, which may be addresses themselves."""
    if isinstance(value, Namespace | dict):
        for name, each in (vars(value) if isinstance(value, Namespace) else value).items():
            if ADDRESS.search(str(name)):
                yield key, str(name)
            yield from _texts(each, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each, key)
    elif isinstance(value, str | os.PathLike):
        yield key, os.fspath(value) if isinstance(value, os.PathLike) else value
