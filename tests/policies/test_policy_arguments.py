"""A policy that cannot work says so when it is built, in one sentence."""

from __future__ import annotations

import inspect

import pytest
from jsonargparse import ArgumentParser

from rollforge.errors import UserError
from rollforge.policies import AttentionSink, CachePolicy, RollingSink, SlidingIndices, Window

SINKS: list[type[CachePolicy]] = [AttentionSink, SlidingIndices, RollingSink]


@pytest.mark.parametrize("kind", [Window, *SINKS])
@pytest.mark.parametrize("count", [0, -2, 2.5, 6.0, "6", None, True])
def test_context_blocks_must_be_a_positive_whole_number(kind: type[CachePolicy], count: object) -> None:
    with pytest.raises(UserError) as error:
        kind(context_blocks=count)  # type: ignore[call-arg]
    assert str(error.value) == f"{kind.__name__}.context_blocks must be a whole number of 1 or more, not {count!r}."


@pytest.mark.parametrize("kind", SINKS)
@pytest.mark.parametrize("count", [-1, 0.5, "5", None, False])
def test_sink_blocks_must_be_a_whole_number(kind: type[CachePolicy], count: object) -> None:
    with pytest.raises(UserError, match=rf"^{kind.__name__}.sink_blocks must be a whole number of 0 or more"):
        kind(sink_blocks=count)  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", SINKS)
def test_sinks_must_fit_in_the_context(kind: type[CachePolicy]) -> None:
    with pytest.raises(UserError) as error:
        kind(context_blocks=6, sink_blocks=7)  # type: ignore[call-arg]
    assert str(error.value) == (
        f"{kind.__name__} got sink_blocks=7 and context_blocks=6, but sinks are part of the context: "
        "lower sink_blocks to 6 or less, or raise context_blocks to 7 or more."
    )


@pytest.mark.parametrize("kind", [Window, *SINKS])
def test_a_policy_explains_itself(kind: type[CachePolicy]) -> None:
    first = (inspect.getdoc(kind) or "").splitlines()[0]
    assert first.startswith("Attends to ")
    assert first.endswith(".")


@pytest.mark.parametrize("kind", SINKS)
def test_yaml_builds_it(kind: type[CachePolicy]) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(CachePolicy, "cache")
    chosen = {"class_path": f"rollforge.policies.{kind.__name__}", "init_args": {"context_blocks": 4, "sink_blocks": 2}}
    policy = parser.instantiate(parser.parse_object({"cache": chosen})).cache
    assert type(policy) is kind
    assert policy.visible(3) == 12
