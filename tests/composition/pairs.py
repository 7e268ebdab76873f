"""Few combinations in which every pair of values occurs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

Chosen = dict[str, str]
Pair = tuple[tuple[str, str], tuple[str, str]]


def pairs_of(chosen: Mapping[str, str]) -> list[Pair]:
    """Every two of the values that are chosen."""
    return list(combinations(chosen.items(), 2))


def pairwise(values: Mapping[str, Sequence[str]], allowed: Callable[[Pair], bool]) -> list[Chosen]:
    """Combinations that together contain every pair that is allowed, and none that is not.

    A pair that fits into no whole combination is left out.
    """
    kinds = list(values)
    missing = {
        ((one, a), (other, b)): None
        for one, other in combinations(kinds, 2) for a in values[one] for b in values[other]
        if allowed(((one, a), (other, b)))
    }  # fmt: skip
    found: list[Chosen] = []
    while missing:
        chosen = _completed(dict(next(iter(missing))), values, missing, allowed)
        del missing[next(iter(missing))]
        if chosen is not None:
            found.append(chosen)
            for pair in pairs_of({kind: chosen[kind] for kind in kinds}):
                missing.pop(pair, None)
    return found


def _completed(
    chosen: Chosen, values: Mapping[str, Sequence[str]], missing: Mapping[Pair, None], allowed: Callable[[Pair], bool]
) -> Chosen | None:
    """The rest of a combination, each value the one with the most pairs that are still missing."""
    for kind in values:
        if kind in chosen:
            continue
        fitting = []
        for value in values[kind]:
            new = [_ordered((kind, value), old, list(values)) for old in chosen.items()]
            if all(allowed(pair) for pair in new):
                fitting.append((sum(pair in missing for pair in new), value))
        if not fitting:
            return None
        chosen[kind] = max(fitting, key=lambda each: each[0])[1]
    return chosen


def _ordered(one: tuple[str, str], other: tuple[str, str], kinds: list[str]) -> Pair:
    return (one, other) if kinds.index(one[0]) < kinds.index(other[0]) else (other, one)
