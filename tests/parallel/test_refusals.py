"""What cannot be divided among processes is refused in one sentence, before anything is computed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import one_video  # noqa: E402 # now that it can be found

from rollforge.backbones.pocket.codec import PocketCodec  # noqa: E402
from rollforge.budget import budget_of, work_of  # noqa: E402
from rollforge.errors import UserError  # noqa: E402
from rollforge.lightning.module import check_together  # noqa: E402
from rollforge.memory import RolloutMemory, RoutedMemory, Sdpa  # noqa: E402
from rollforge.memory.kv_codec import IdentityKVCodec  # noqa: E402
from rollforge.parallel import Division, ShareMemory, divide  # noqa: E402
from rollforge.parallel.attention import attention_with_sums, written_out  # noqa: E402
from rollforge.policies import Window  # noqa: E402
from rollforge.rollout import Rollout  # noqa: E402
from rollforge.samplers import FewStep  # noqa: E402
from rollforge.spec import ModelSpec, Phase, ReadPlan, Segment, Step, Virtual  # noqa: E402

WAN = ModelSpec(16, 60, 104, (2, 2), 30, 12, 128, 3, 21, 21, 4.0)


def group(heads: int = 2, keys: int = 2) -> Any:
    return SimpleNamespace(division=Division(heads, keys), rank=0, head_rank=0, key_rank=0)


@pytest.mark.parametrize(
    ("processes", "heads", "keys"), [(1, 1, 1), (2, 2, 1), (3, 3, 1), (4, 4, 1), (5, 1, 5), (8, 4, 2), (12, 12, 1)]
)
def test_heads_are_divided_as_far_as_they_can_be(processes: int, heads: int, keys: int) -> None:
    assert divide(WAN, processes) == Division(heads, keys)
    share = Division(heads, keys).share(WAN)
    assert (share.heads, share.tokens, share.kv_shape(7)) == (12 // heads, 1560 // keys, (12 // heads, 128))


def test_shared_heads_limit_the_division() -> None:
    assert divide(replace(WAN, kv_heads=2), 8) == Division(2, 4)


@pytest.mark.parametrize(
    ("refused", "words"),
    [
        (lambda: divide(WAN, 7), ["context_parallel is 7", "1560 tokens", "one of 2, 3, 4, 5, 6, 8"]),
        (lambda: check_together("predict", 4, 6), ["context_parallel is 4", "6 processes", "trainer.devices"]),
        (lambda: check_together("fit", 2, 2), ["context_parallel", "fit"]),
    ],
)
def test_numbers_that_do_not_fit(refused: Any, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        refused()
    assert all(word in str(caught.value) for word in words)


class Coarse(IdentityKVCodec):
    pass


class Looks(Window):
    observes = (0,)
    sees = ("q",)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"memory": RoutedMemory}, "memory RoutedMemory"),
        ({"kv_codec": Coarse()}, "KV codec Coarse"),
        ({"policy": Looks(2)}, "cache policy Looks observes queries"),
        ({"attention": Sdpa("math")}, "attention Sdpa does not attend by parts"),
    ],
)
def test_components_that_need_all_heads_or_tokens(parts: dict[str, Any], words: str) -> None:
    rollout = Rollout(**{"backbone": one_video.backbone(2), "policy": Window(2), "sampler": FewStep()} | parts)
    rollout.group = group()
    with pytest.raises(UserError, match=words) as caught:
        rollout(one_video.text(0), 4)
    assert "model.context_parallel" in str(caught.value)


@pytest.mark.parametrize(
    ("run", "word"), [(Segment(0, 0, 2, heads=(0,)), "heads"), (Segment(0, 0, 2, tokens=(1,)), "tokens")]
)
def test_plans_that_need_all_heads_or_tokens(run: Segment, word: str) -> None:
    memory = ShareMemory(group(), one_video.backbone(2).spec, 4)
    with pytest.raises(ValueError, match=rf"frame 0 .* some {word}, which model.context_parallel"):
        memory.begin(Step(1, 2, 2, Phase.DENOISE), ReadPlan((run,), 2))


@pytest.mark.parametrize("made", [{"pool": "tokens"}, {"make": lambda *_: None}])
def test_virtual_frames_that_need_all_heads_or_tokens(made: dict[str, Any]) -> None:
    memory = ShareMemory(group(), one_video.backbone(2).spec, 4)
    with pytest.raises(ValueError, match=r"virtual frame -1 .* model.context_parallel"):
        memory.make(1, [Virtual(-1, (0,), **made)])


def test_a_state_of_other_processes_is_refused() -> None:
    spec = one_video.backbone(2).spec
    state = ShareMemory(group(), spec, 4).state_dict()
    for other in (ShareMemory(group(2, 1), spec, 4), RolloutMemory(spec, 4)):
        with pytest.raises(UserError, match="as many processes as it was saved with"):
            other.load_state_dict(state, torch.device("cpu"))


def test_the_budget_counts_the_share_of_a_process() -> None:
    def lines(processes: int) -> dict[str, int]:
        parts = one_video.backbone(4), PocketCodec(width=16), FewStep(), {"model.policy": Window(2)}
        work = work_of(*parts, device="cpu", frames=20, processes=processes)
        return {line.name: line.size for line in budget_of(work, {"cpu": None}).lines}

    one, four = lines(1), lines(4)
    assert four["keys and values in view"] * 4 == one["keys and values in view"] > 0
    assert four["weights of the network"] == one["weights of the network"]


def test_the_sums_of_the_kernel_are_those_of_the_logits() -> None:
    q, k, v = (torch.randn(2, length, heads, 8) for length, heads in ((5, 4), (7, 2), (7, 2)))
    bias = torch.randn(1, 1, 1, 7)
    made, sums = attention_with_sums(q, k, v, bias)
    k, v = (x.repeat_interleave(2, dim=2).transpose(1, 2) for x in (k, v))
    expected = written_out(q.transpose(1, 2), k, v, bias)
    torch.testing.assert_close((made.transpose(1, 2), sums.transpose(1, 2)), expected)
