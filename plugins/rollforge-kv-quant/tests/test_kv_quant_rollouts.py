"""Rollouts with the codecs: resuming, reading again, averages, the budget, and the drift of Pocket."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from packages import installed
from rollforge_kv_quant import FP8KVCodec, Int4KVCodec, Int8KVCodec
from torch import Tensor
from toy_backbone import BLOCK, Toy, condition

import rollforge
from rollforge.backbones.wan.codec import WanVAE
from rollforge.backbones.wan.network import Wan
from rollforge.backbones.wan.tiny import TinyWanDecoder
from rollforge.budget import budget_of, work_of
from rollforge.doctor.card import free_on
from rollforge.memory import IdentityKVCodec, KVCodec, RolloutMemory
from rollforge.policies import CachePolicy, LongLive, RollingSink, SlidingIndices
from rollforge.positions import Rope
from rollforge.rollout import Rollout
from rollforge.samplers import FewStep
from rollforge.spec import ReadPlan, Step, Virtual
from rollforge.state import tensors_of
from rollforge.testing import check_resume

PACKAGE = Path(__file__).parents[1]
CODECS = [Int8KVCodec(), FP8KVCodec(), Int4KVCodec()]
each_codec = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: type(codec).__name__)
FEW = FewStep([1000, 500], shift=1.0)


class Averaging(CachePolicy):
    """The last block, and a slow average of all frames before it."""

    def plan(self, step: Step) -> ReadPlan:
        start, block = step.start, step.block
        recent = [(frame, frame) for frame in range(max(0, start - block), start)]
        return ReadPlan.of([(-1, start - block - 1), *recent] if start > block else recent, start)

    def virtual(self, step: Step) -> Sequence[Virtual]:
        leaving = step.start - 2 * step.block
        if leaving < 0:
            return ()
        return [Virtual(-1, (-1, leaving), (0.999, 0.001)) if leaving else Virtual(-1, (0,))]

    def live(self, start: int, block: int) -> frozenset[int]:
        return frozenset([-1, *range(max(0, start - 2 * block), start)])

    def visible(self, block: int) -> int:
        return block + 1


class Watched(RolloutMemory):
    """Keeps itself where a test can look at it."""

    last: Any = None

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        Watched.last = self


@each_codec
@pytest.mark.parametrize("policy", [RollingSink(3, 2), Averaging()], ids=lambda each: type(each).__name__)
def test_interrupted_rollout_resumes_in_both_modes_of_snapshots(codec: KVCodec, policy: CachePolicy) -> None:
    check_resume(policy, kv_codec=codec, blocks=6)


@each_codec
def test_latents_committed_again_give_the_very_same_rollout(codec: KVCodec) -> None:
    rollout = Rollout(Toy(positions=Rope()), SlidingIndices(3, 1), FEW, kv_codec=codec)
    blocks = [block.latents for block in rollout(condition(0), 16)]
    for cut in (3, 6):
        run = rollout(condition(0), 16)
        for _ in range(cut):
            next(run)
        again = rollout(condition(0), 16, state=run.state_dict(kv=False), finished=blocks[:cut])
        rest = [block.latents for block in again]
        assert all(torch.equal(one, other) for one, other in zip(rest, blocks[cut:], strict=True))


@pytest.mark.parametrize(("codec", "global_sink"), [(Int8KVCodec(), True), (Int4KVCodec(), False)])
def test_frames_are_read_again_from_latents_whatever_the_codec(codec: KVCodec, global_sink: bool) -> None:
    policy = LongLive(3, 1, global_sink=global_sink)
    check_resume(policy, kv_codec=codec, blocks=7, switches=(4,))
    prompts: Any = {0: condition(0), 4 * BLOCK: condition(5)}
    rollout = Rollout(Toy(positions=Rope()), policy, FEW)
    exact, found = (
        torch.cat([block.latents for block in replace(rollout, kv_codec=each)(prompts, 16)], dim=1)
        for each in (IdentityKVCodec(), codec)
    )
    assert (found - exact).norm() < 0.1 * exact.norm()
    assert not torch.equal(found, exact)


def test_a_slow_average_moves_although_its_sources_are_rounded() -> None:
    kept: list[Tensor] = []
    rollout = Rollout(Toy(positions=Rope()), Averaging(), FEW, kv_codec=Int4KVCodec(), memory=Watched)
    sources: dict[int, Tensor] = {}
    for _ in rollout(condition(0), 20):
        memory = Watched.last
        sources |= {frame: memory._decoded(frame, 1)[0] for frame in memory.raw if frame >= 0}
        if -1 in memory.raw:
            kept.append(memory._decoded(-1, 1)[0].clone())
    expected = sources[0]
    for n, found in enumerate(kept):
        if n:
            expected = 0.999 * expected + 0.001 * sources[n * BLOCK]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert not torch.equal(kept[-1], kept[-2])


@each_codec
@pytest.mark.parametrize("policy", [RollingSink(3, 2), Averaging()], ids=lambda each: type(each).__name__)
def test_the_budget_counts_what_a_rollout_holds(codec: KVCodec, policy: CachePolicy) -> None:
    backbone, most = Toy(positions=Rope()), 0
    for _ in Rollout(backbone, policy, FEW, kv_codec=codec, memory=Watched)(condition(0), 24):
        most = max(most, sum(tensor.nbytes for tensor in tensors_of(Watched.last.raw)))
    work = work_of(backbone, WanVAE(base_dim=4), FEW, {"model.policy": policy}, device="cpu", frames=24, kv_codec=codec)
    sizes = {line.name: line.size for line in budget_of(work, {}).lines}
    assert sizes["raw keys and values"] == most


def test_rolling_sink_of_the_1_3b_model_fits_16_gb_with_a_codec_alone() -> None:
    with torch.device("meta"):
        network, tiny, vae = Wan(weights="random", dtype="bf16"), TinyWanDecoder(), WanVAE()
    free = {"cuda:0": free_on("16GB"), "cpu": None}

    def peak(codec: KVCodec, decoder: Any) -> tuple[float, bool]:
        work = work_of(
            network, decoder, FewStep(), {"model.policy": RollingSink()}, device="cuda:0", frames=1203, kv_codec=codec
        )
        budget = budget_of(work, free)
        return round(budget.needed("cuda:0") / 1e9, 1), budget.fits

    table = re.findall(r"^\| (\w+) .*\| ([\d.]+) GB.* \| ([\d.]+) GB.* \|$", (PACKAGE / "README.md").read_text(), re.M)
    stated = {name: (float(small), float(large)) for name, small, large in table}
    found = {type(codec).__name__: (peak(codec, tiny), peak(codec, vae)) for codec in (IdentityKVCodec(), *CODECS)}
    assert stated == {name: (small[0], large[0]) for name, (small, large) in found.items()}
    assert {name: small[1] for name, (small, _) in found.items()} == {
        "IdentityKVCodec": False, "Int8KVCodec": True, "FP8KVCodec": True, "Int4KVCodec": True,
    }  # fmt: skip
    assert not any(large[1] for _, large in found.values())


class Recording(IdentityKVCodec):
    """Remembers the keys and values of every frame and layer."""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []

    def encode(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if k.device.type == "cpu":  # the budget asks with tensors that have no values
            self.seen.append((k.clone(), v.clone()))
        return super().encode(k, v)

    def __deepcopy__(self, memo: Any) -> Recording:
        return self


@cache
def pocket() -> tuple[Any, list[Tensor], list[tuple[Tensor, Tensor]]]:
    """Pocket as the config of this package rolls it: the pipeline, and exact latents, keys and values of 8 blocks."""
    pipeline = rollforge.load(PACKAGE / "configs" / "kv-quant.yaml")
    assert type(pipeline.kv_codec) is Int4KVCodec
    return pipeline, *recorded(pipeline)


def recorded(pipeline: Any) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    pipeline.kv_codec = recording = Recording()
    return rolled(pipeline), recording.seen


def rolled(pipeline: Any, blocks: int = 8) -> list[Tensor]:
    video = pipeline.roll("a purple ball and a red box over grass at night", seconds=3.0, seed=4)
    return [block.latents for block in islice(video, blocks)]


@pytest.fixture
def exact(tmp_path: Path) -> tuple[Any, list[Tensor], list[tuple[Tensor, Tensor]]]:
    with installed(["rollforge-kv-quant"], tmp_path):
        return pocket()


@each_codec
def test_errors_on_keys_and_values_of_pocket_are_those_of_the_readme(codec: KVCodec, exact: Any) -> None:
    _, _, seen = exact
    table = re.findall(r"^\| `(\w+)` \|.*\| ([\d.]+) % \| ([\d.]+) % \|$", (PACKAGE / "README.md").read_text(), re.M)
    stated = {name: (float(k), float(v)) for name, k, v in table}[type(codec).__name__]
    given = [torch.cat(each) for each in zip(*seen, strict=True)]
    assert given[0].shape[1:] == (16, 6, 32)
    kept = codec.encode(*(x.bfloat16() for x in given))
    for x, found, percent in zip(given, codec.decode(kept), stated, strict=True):
        assert 100 * (found - x).norm() / x.norm() == pytest.approx(percent, rel=0.1)


@pytest.mark.parametrize(("codec", "bound"), [(Int8KVCodec(), 0.007), (FP8KVCodec(), 0.03), (Int4KVCodec(), 0.08)])
def test_latents_of_pocket_stay_near_those_of_exact_keys(codec: KVCodec, bound: float, exact: Any) -> None:
    pipeline, latents, _ = exact
    pipeline.kv_codec = codec
    errors = [
        ((found - expected).norm() / expected.norm()).item()
        for found, expected in zip(rolled(pipeline, 5), latents[:5], strict=True)
    ]
    assert errors[0] == 0  # which reads nothing
    assert 0 < max(errors) < bound
