"""What is done to a good file: drawn by hypothesis, plain enough for JSON, and smaller when hypothesis shrinks it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

Change = list[Any]
"""``[what, ...]``, as ``damaged`` reads it."""

HUGE = [2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 8, 2**40, 2**62, 2**63, 2**64 - 1, 0, 1]
ODD: list[Any] = [
    *(None, True, "", " ", "\0", "\x1b[2Jx", "\u202eevil", "\ud800", "a\nb", "x" * 5000, "../../etc/passwd", "/etc"),
    *("~", "C:\\x", "1e999", "0x10", "null", "1:30", "con.mp4", "manifest.json", "é" * 200, "-1", "1_000", "٣", "10m"),
    *(-1, 0, 2**31, 2**53 + 1, 2**63, -(2**64), 10**400, 1e308, -0.0, math.inf, -math.inf, math.nan, [], {}, [[]]),
    *([None], {"": None}, {"class_path": "os.system"}, {"dict": []}, {"tuple": 1}, {"int": "0xz"}, {"tensor": "no"}),
]
"""Values that nobody expects where they stand."""


def changes(size: int, hot: Sequence[tuple[int, int]] = ()) -> st.SearchStrategy[list[Change]]:
    """One to four changes of a file of ``size`` bytes, half of them in its first 64 or in the ``hot`` ranges."""
    last = max(0, size - 1)
    at = st.integers(0, last) | st.one_of([st.integers(a, b) for a, b in [(0, min(64, last)), *hot]])
    some, short = st.binary(max_size=24).map(bytes.hex), st.integers(0, 40)
    one = st.one_of(
        st.tuples(st.just("cut"), at),
        st.tuples(st.just("flip"), at, st.integers(0, 7)),
        st.tuples(st.just("put"), at, short, some),
        st.tuples(st.just("copy"), at, st.integers(0, 200), at),
        st.tuples(st.just("number"), at, st.sampled_from([1, 2, 4, 8]), st.sampled_from(HUGE), st.booleans()),
        st.tuples(st.just("noise"), at, st.binary(max_size=200).map(bytes.hex)),
    )
    return st.lists(one.map(list), min_size=1, max_size=4)


def damaged(content: bytes, made: Sequence[Change]) -> bytes:
    """The file after the changes."""
    for what, at, *more in made:
        if what == "cut":
            content = content[:at]
        elif what == "flip" and at < len(content):
            content = content[:at] + bytes([content[at] ^ (1 << more[0])]) + content[at + 1 :]
        elif what == "put":
            content = content[:at] + bytes.fromhex(more[1]) + content[at + more[0] :]
        elif what == "copy":
            content = content[: more[1]] + content[at : at + more[0]] + content[more[1] :]
        elif what == "number":
            width, value, little = more
            raw = (value % 256**width).to_bytes(width, "little" if little else "big")
            content = content[:at] + raw + content[at + width :]
        elif what == "noise":
            content = content[:at] + bytes.fromhex(more[0])
    return content


def twisted(tree: Any) -> st.SearchStrategy[Any]:
    """Plain data in which one to three values are odd, gone, doubled, deeply nested, or under another key."""
    return st.lists(
        st.tuples(st.integers(0, 10_000), st.sampled_from(["odd", "gone", "double", "deep", "key"]), _odd()),
        min_size=1,
        max_size=3,
    ).map(lambda twists: _twist(tree, twists))


def _odd() -> st.SearchStrategy[Any]:
    return st.sampled_from(ODD) | st.text(max_size=8) | st.integers() | st.floats()


def _twist(tree: Any, twists: Sequence[tuple[int, str, Any]]) -> Any:
    holder = {"": deepcopy(tree)}
    for number, how, value in twists:
        places = list(_places(holder))
        within, key = places[number % len(places)]
        if how == "odd" or within is holder:
            within[key] = deepcopy(value)
        elif how == "gone":
            del within[key]
        elif how == "deep":
            for _ in range(200):
                within[key] = [within[key]]
        elif isinstance(within, dict):
            within[str(value) if how == "key" else f"{key}_"] = within.pop(key) if how == "key" else within[key]
        else:
            within.append(deepcopy(within[key]))
    return holder[""]


def _places(tree: Any, depth: int = 0) -> Any:
    """Every container of the tree with each of its keys."""
    if depth < 20 and isinstance(tree, (dict, list)):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from _places(tree[key], depth + 1)
