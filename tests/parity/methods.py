"""How rollforge computes each case: the built-in methods here, those of a package in its ``tests/parity_cases.py``."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from packages import PACKAGES
from parity_method import Meta, Method

from rollforge.policies import AttentionSink, LongLive, RollingSink, SlidingIndices, Window


def context(meta: Meta) -> int:
    """Blocks that a block sees, itself not counted."""
    return int(meta["window"] // meta["block"] - 1)


def sink(meta: Meta) -> int:
    """Blocks of the sink."""
    return int(meta["sink"] // meta["block"])


def rolling_sink(meta: Meta) -> RollingSink:
    k, s = (int(found) for found in re.findall(r"\b[ks]=(\d+)", str(meta["policy"]).lower()))
    return RollingSink(k, s)


BUILT_IN = (
    Method(r"window \d+(, block of 1 frame.*)?$", lambda meta: Window(context(meta))),
    Method(r"rolling_sink k=\d+ s=\d+$", rolling_sink),
    Method(r"attention sink \d+, window \d+, absolute indices$", lambda meta: AttentionSink(context(meta), sink(meta))),
    Method(r"attention sink \d+, window \d+, window-relative", lambda meta: SlidingIndices(context(meta), sink(meta))),
    Method(
        r"attention sink \d+, window \d+, absolute indices; prompt switches with kv recache",
        lambda meta: LongLive(context(meta), sink(meta), global_sink=meta["global_sink"]),
    ),
)


def of_packages() -> tuple[Method, ...]:
    """The tables of the packages."""
    found: list[Method] = []
    for name, folder in PACKAGES.items():
        if (file := folder / "tests" / "parity_cases.py").is_file():
            found.extend(_table(name, file))
    return tuple(found)


def method_of(meta: Meta) -> Method | None:
    """The method that computes a case. Two would be a mistake in a table."""
    found = [method for method in METHODS if method.computes(meta)]
    assert len(found) < 2, f"{[method.pattern for method in found]} all say that they compute {meta['policy']!r}"
    return found[0] if found else None


def _table(name: str, file: Path) -> tuple[Method, ...]:
    spec = spec_from_file_location(f"parity_cases_{name.replace('-', '_')}", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    methods: tuple[Method, ...] = module.METHODS
    return methods


METHODS = (*BUILT_IN, *of_packages())
