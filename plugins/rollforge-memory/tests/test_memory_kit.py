"""Every policy passes the kit, resumes across a prompt switch, and refuses what does not fit."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from rollforge_memory import LongLiveRAG, MemFlow, MemRoPE, TetherCache

from rollforge.errors import UserError
from rollforge.policies import CachePolicy
from rollforge.rollout import Rollout
from rollforge.samplers import FewStep
from rollforge.testing import check_policy, check_resume
from rollforge.testing.rolled import finite
from rollforge.testing.tiny import Rolls, condition, network

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
POLICIES = {
    "memflow": MemFlow(8, 2, 2, 1),
    "memflow interactive": MemFlow(8, 2, 2, 2, interactive=True),
    "memrope": MemRoPE(9, 1),
    "longlive-rag": LongLiveRAG(9, 1, 3, 1, pool_frames=4),
    "tether-cache": TetherCache(2, 4, 2),
    "tether-cache fifo": TetherCache(2, 4, 2, "fifo"),
}


@pytest.mark.parametrize("name", ["memflow", "memrope", "longlive-rag", "tether-cache"])
def test_it_passes_the_kit(name: str) -> None:
    check_policy(POLICIES[name], blocks=150)


def test_longlive_rag_refuses_batches_in_which_every_sample_would_retrieve_other_frames() -> None:
    with pytest.raises(UserError, match="With LongLiveRAG a video may depend on those that are rolled with it"):
        Rolls(LongLiveRAG()).start(samples=(0, 1))


@pytest.mark.parametrize("name", ["memflow interactive", "tether-cache", "tether-cache fifo"])
def test_it_resumes_across_a_switch_with_and_without_keys(name: str) -> None:
    check_resume(POLICIES[name], switches=(5,))


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        (MemFlow(6), "MemFlow got window_frames=6 and sink_frames=3, .* raise window_frames to 7 or more"),
        (MemRoPE(8), "MemRoPE got window_frames=8 and sink_frames=3, .* raise window_frames to 9 or more"),
        (MemRoPE(2), "MemRoPE got window_frames=2 and .* blocks of 3 frames"),
        (
            LongLiveRAG(9),
            "LongLiveRAG got window_frames=9 and sink_frames=1, retrieved_frames=6, .* lower sink_frames o",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused_before_the_first_block(policy: CachePolicy, sentence: str) -> None:
    with pytest.raises(UserError, match=f"^{sentence}"):
        Rollout(network(), policy, FewStep())(condition(), 6)


@pytest.mark.parametrize(
    ("policy", "hides", "what"),
    [
        (MemFlow(), "text_k", "keys of the text"),
        (TetherCache(), "q", "queries"),
        (TetherCache(memory="fifo"), "q", None),
    ],
)
def test_network_that_does_not_show_what_is_observed_is_refused(
    policy: CachePolicy, hides: str, what: str | None
) -> None:
    silent = network()
    silent.hides = (hides,)
    start = partial(Rollout(silent, policy, FewStep()), condition(), 6)
    if what is None:
        assert len(list(start())) == 2
        return
    with pytest.raises(UserError, match=f"{type(policy).__name__} observes {what}, and the backbone Pocket shows none"):
        start()


@pytest.mark.parametrize(
    ("made", "arguments"),
    [
        (MemFlow, {"bank_frames": 0}),
        (MemFlow, {"interval": 0}),
        (MemRoPE, {"long_rate": 1.1}),
        (LongLiveRAG, {"retrieved_frames": 0}),
        (LongLiveRAG, {"pool_frames": 0}),
        (TetherCache, {"memory_frames": 0}),
        (TetherCache, {"recent_frames": 0}),
        (TetherCache, {"diversity": -1}),
    ],
)
def test_numbers_out_of_range_are_refused(made: Any, arguments: dict[str, float]) -> None:
    with pytest.raises(UserError, match=rf"{made.__name__}\.{next(iter(arguments))} must be"):
        made(**arguments)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_the_config_names_a_policy_with_its_arguments(config: Path) -> None:
    chosen = yaml.safe_load(config.read_text())["model"]["policy"]
    policy = {each.__name__: each for each in (LongLiveRAG, MemFlow, MemRoPE, TetherCache)}[chosen["class_path"]]
    assert all(finite(latents) for latents in Rolls(policy(**chosen["init_args"])).blocks_of())
