"""The budget: against the published figures of Wan 1.3B, against what a rollout really holds, and what it advises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rollforge.backbones.base import Condition
from rollforge.backbones.pocket.codec import PocketCodec
from rollforge.backbones.pocket.network import Pocket
from rollforge.backbones.wan.codec import WanVAE
from rollforge.backbones.wan.network import Wan
from rollforge.backbones.wan.text import UMT5
from rollforge.budget import (
    Budget,
    Line,
    MemoryCheck,
    MemoryInput,
    budget_of,
    fitting,
    free_memory,
    readable,
    savings,
    work_of,
)
from rollforge.budget.settings import options
from rollforge.errors import UserError
from rollforge.memory import RolloutMemory
from rollforge.policies import AttentionSink, CachePolicy, LongLive, RollingSink, SlidingIndices, Window
from rollforge.rollout import Rollout
from rollforge.samplers import Euler, FewStep
from rollforge.spec import Capacity, ReadPlan, Step, Virtual

GB = 10**9
SMALL: dict[str, Any] = {"dim": 32, "layers": 2, "heads": 2, "ffn_dim": 64, "window": 9, "horizon": 9}


@pytest.fixture(scope="module")
def wan() -> Any:
    """Wan 1.3B at 480x832 and its VAE, without a number in memory."""
    with torch.device("meta"):
        return Wan(weights="random", dtype="bf16"), WanVAE()


def at_480p(wan: Any, policies: Mapping[str, CachePolicy] | None = None, **options: Any) -> MemoryInput:
    policies = policies or {"model.policy": RollingSink()}
    return work_of(*wan, FewStep(), policies, **{"device": "cuda:0", "frames": 1203, **options})


def sizes(work: MemoryInput) -> dict[str, int]:
    return {line.name: line.size for line in budget_of(work, {}).lines}


def test_wan_takes_what_the_published_figures_say(wan: Any) -> None:
    line_sizes = sizes(at_480p(wan))
    assert line_sizes["weights of the network"] / GB == pytest.approx(2.84, abs=0.005)
    assert line_sizes["keys and values in view"] / 21 / 1e6 == pytest.approx(288, abs=0.6)
    assert line_sizes["keys and values in view"] / GB == pytest.approx(6.04, abs=0.005)
    assert line_sizes["state of the codec"] / GB == pytest.approx(1.89, abs=0.005)
    assert line_sizes["text keys and values"] / 1e6 == pytest.approx(94, abs=0.5)


def test_raw_keys_are_kept_of_what_a_policy_comes_back_to(wan: Any) -> None:
    assert sizes(at_480p(wan, {"model.policy": Window()}))["raw keys and values"] == 0
    line_sizes = sizes(at_480p(wan))
    assert line_sizes["raw keys and values"] * 21 == line_sizes["keys and values in view"] * 18


def test_lanes_and_videos_multiply_what_each_holds(wan: Any) -> None:
    one = sizes(at_480p(wan))
    guided = work_of(*wan, Euler(guidance=3), {"model.policy": RollingSink()}, device="cuda:0", frames=1203, batch=2)
    for name, times in (("keys and values in view", 4), ("raw keys and values", 4), ("state of the codec", 2)):
        assert sizes(guided)[name] == times * one[name]


def test_what_runs_at_the_same_time_is_added(wan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit in the pass of the next block, and decoding while that is generated."""
    lines = {fuse: budget_of(at_480p(wan, fuse_commit=fuse), {}).lines for fuse in (False, True)}
    passes = {fuse: next(line for line in made if line.name == "a forward pass") for fuse, made in lines.items()}
    assert [passes[fuse].how.split()[2] for fuse in (False, True)] == ["3", "6"]
    assert passes[True].size >= passes[False].size
    alone, before = sizes(at_480p(wan)), budget_of(at_480p(wan), {}).needed("cuda:0")
    monkeypatch.setattr(wan[1], "own_stream", True)
    more = budget_of(at_480p(wan), {}).needed("cuda:0") - before
    assert more == min(alone["decoding a block"], alone["a forward pass"])


@pytest.mark.parametrize(
    ("precision", "weights", "computing"), [("32-true", 4, 4), ("bf16-true", 2, 2), ("bf16-mixed", 4, 2)]
)
def test_the_precision_of_the_trainer_counts(precision: str, weights: int, computing: int) -> None:
    backbone = Pocket(**SMALL)
    work = work_of(
        backbone, PocketCodec(width=16), FewStep(), {"model.policy": Window(2)}, device="cpu", frames=30,
        precision=precision,
    )  # fmt: skip
    numbers = sum(each.numel() for each in backbone.parameters())
    assert sizes(work)["weights of the network"] == weights * numbers
    assert sizes(work)["keys and values in view"] == 2 * 2 * 16 * 32 * 9 * computing


@pytest.mark.parametrize(
    "policy", [Window(2), AttentionSink(3, 1), SlidingIndices(3, 2), RollingSink(3, 2), LongLive(2, 1, 3)],
    ids=lambda policy: type(policy).__name__,
)  # fmt: skip
@pytest.mark.parametrize("frames", [3, 6, 60])
def test_keys_and_values_are_what_a_rollout_really_holds(
    policy: CachePolicy, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    memories: list[RolloutMemory] = []
    build = RolloutMemory.__init__

    def watched(self: RolloutMemory, *arguments: Any) -> None:
        build(self, *arguments)
        memories.append(self)

    monkeypatch.setattr(RolloutMemory, "__init__", watched)
    backbone, sampler = Pocket(**SMALL), Euler(steps=1, guidance=2.0)
    text, raw = Condition("a", torch.zeros(2, 4, 64)), 0
    run = Rollout(backbone, policy, sampler)(text, frames, negative=text)
    for _ in run:
        kept = [pair for memory in memories for layers in memory.raw.values() for pair in layers]
        raw = max(raw, sum(x.nbytes for pair in kept for x in pair))
    work = work_of(
        backbone, PocketCodec(width=16), sampler, {"model.policy": policy}, device="cpu", frames=frames, batch=2,
        switches=(),
    )  # fmt: skip
    views = [view for memory in memories for view in memory._views.values()]
    texts = run.passes.nbytes - sum(memory.nbytes for memory in memories)  # both branches have theirs in one batch
    line_sizes = sizes(work)
    assert len(memories) == 2
    held = sum(view.keys.nbytes + view.values.nbytes for view in views)
    assert held == (line_sizes["keys and values in view"] if frames > 3 else 0)  # a single block reads nothing
    assert line_sizes["raw keys and values"] == raw
    assert line_sizes["text keys and values"] == texts


def test_weights_are_counted_as_they_are() -> None:
    backbone, codec = Pocket(**SMALL), PocketCodec(width=16)
    line_sizes = sizes(work_of(backbone, codec, FewStep(), {"p": Window(2)}, device="cpu", frames=9))

    def held(part: nn.Module) -> int:
        return sum(x.nbytes for x in (*part.parameters(), *part.buffers()))

    assert line_sizes["weights of the network"] == held(backbone)
    assert line_sizes["weights of the codec"] == held(codec)
    assert line_sizes["state of the codec"] == 0
    assert line_sizes["decoding a block"] > 3 * 3 * 64 * 64 * 4


@pytest.mark.parametrize("tile", [None, 4])
def test_the_state_of_the_codec_is_what_a_stream_really_keeps(tile: int | None) -> None:
    torch.manual_seed(0)
    codec = WanVAE(base_dim=4, z_dim=8, latents_mean=[0.0] * 8, latents_std=[1.0] * 8, tile=tile, overlap=1)
    backbone = Pocket(**SMALL)
    stream: Any = codec.stream()
    with torch.no_grad():
        stream(torch.zeros(1, 3, 8, 8, 8))
        stream(torch.zeros(1, 3, 8, 8, 8))
    kept = sum(x.untyped_storage().nbytes() for maps in stream.state for x in maps if isinstance(x, Tensor))
    work = work_of(backbone, codec, FewStep(), {"p": Window(2)}, device="cpu", frames=9)
    assert sizes(work)["state of the codec"] == pytest.approx(kept, rel=1e-4)  # a few numbers are not feature maps


def test_a_codec_that_needs_numbers_is_said_to_be_unknown() -> None:
    class Peeking(PocketCodec):
        def pixels(self, latents: Tensor) -> Tensor:
            return super().pixels(latents) * float(latents.mean() > 0)

    work = work_of(Pocket(**SMALL), Peeking(width=16), FewStep(), {"p": Window(2)}, device="cpu", frames=9)
    assert "Peeking cannot be counted" in budget_of(work, {}).table()


def test_the_table_names_every_line_the_peak_and_what_is_free() -> None:
    budget = Budget(
        (
            Line("weights", 3 * GB, "cuda:0", "bf16"),
            Line("text encoder", 4 * GB, "cuda:0", during=("prompts",)),
            Line("a forward pass", GB, "cuda:0", during=("pass",)),
            Line("decoding", 2 * GB, "cuda:0", during=("decoding",)),
            Line("codec", GB, "cpu"),
        ),
        {"cuda:0": 2 * GB},
    )
    assert not budget.fits
    assert (budget.needed("cuda:0"), budget.lacking("cuda:0"), budget.lacking("cpu")) == (7 * GB, 5 * GB, 0)
    lines = budget.table().splitlines()
    assert lines[0].split() == ["weights", "3.00", "GB", "cuda:0", "bf16"]
    assert lines[4].split()[:3] == ["peak", "7.00", "GB"]
    assert lines[4].endswith("of 2.00 GB free, while prompts are encoded: 5.00 GB too much")
    assert lines[-1].endswith("what is free there is not known")
    assert [readable(n) for n in (12, 1_500, 2_000_000)] == ["12 B", "1.50 kB", "2.00 MB"]


TINY = "model.codec: TinyWanDecoder with its weights taew2_1.pth"
CPU = "model.codec.init_args.device: cpu"
FIVE = "model.policy.init_args.context_blocks: 5, model.policy.init_args.sink_blocks: 4"


@pytest.mark.parametrize(
    ("free", "batch", "dtype", "settings"),
    [
        (19, 1, "bf16", [TINY]),
        (34, 1, "fp32", ["model.backbone.init_args.dtype: bf16"]),
        (38, 3, "bf16", ["data.rollout_batch_size: 2"]),
        (16, 1, "bf16", [TINY, FIVE]),
        (2, 1, "bf16", []),
    ],
)  # fmt: skip
def test_settings_that_fit_are_tried_in_order(wan: Any, free: int, batch: int, dtype: str, settings: list[str]) -> None:
    with torch.device("meta"):
        backbone = Wan(weights="random", dtype=dtype)  # type: ignore[arg-type]
    work, available = at_480p((backbone, wan[1]), batch=batch), {"cuda:0": free * GB, "cpu": 64 * GB}
    assert not budget_of(work, available).fits
    assert fitting(work, available) == settings


def test_what_changes_the_video_or_takes_hours_comes_last(wan: Any) -> None:
    with torch.device("meta"):
        backbone = Wan(weights="random", dtype="fp32")
    order = [group[0].text for group in options(at_480p((backbone, wan[1]), batch=2)) if group]
    assert order == [
        "model.backbone.init_args.dtype: bf16", "model.codec.init_args.tile: 32", "data.rollout_batch_size: 1",
        TINY, CPU, FIVE,
    ]  # fmt: skip


def test_a_decoder_that_cannot_encode_is_not_advised_for_an_opening(wan: Any) -> None:
    work = at_480p(wan, opening=18)
    assert sizes(work)["encoding the opening"] > GB
    assert not any("TinyWanDecoder" in setting.text for group in options(work) for setting in group)


def test_the_codec_stays_where_the_cpu_has_no_memory_for_it(wan: Any) -> None:
    assert CPU not in fitting(at_480p(wan, opening=1), {"cuda:0": 17 * GB, "cpu": GB})


def test_the_text_encoder_is_alone_with_the_weights(wan: Any) -> None:
    published = UMT5(weights="nowhere.pth", tokenizer="nowhere")  # whose files are not there
    work = at_480p(wan, {"model.policy": Window(1)}, conditioner=published, prompts=["a cat"])
    line_sizes, budget = sizes(work), budget_of(work, {})
    encoder = next(line for line in budget.lines if line.name == "text encoder")
    assert (encoder.size / GB, encoder.device) == (pytest.approx(11.36, abs=0.005), "cuda:0")
    both = line_sizes["weights of the network"] + line_sizes["weights of the codec"] + encoder.size
    assert budget.needed("cuda:0") == both
    available = {"cuda:0": 14 * GB, "cpu": 64 * GB}
    assert fitting(work, available) == ["model.conditioner.init_args.device: cpu"]
    on_cpu = fitting(work, {"cuda:0": 14 * GB, "cpu": 12 * GB})
    assert on_cpu == ["model.conditioner.init_args.device: cpu and model.conditioner.init_args.dtype: bf16"]
    assert sizes(at_480p(wan, device="cpu", conditioner=published, prompts=["a"]))["text encoder"] == 2 * encoder.size


def test_both_policies_are_made_to_fit(wan: Any) -> None:
    work = at_480p(wan, {"model.policy": RollingSink(), "model.compare_policy": Window()})
    context = next(saving for saving in savings(work) if "context_blocks" in saving)
    assert context.startswith(
        "model.policy.init_args.context_blocks: 5, model.policy.init_args.sink_blocks: 4, "
        "model.compare_policy.init_args.context_blocks: 5 (saves "
    )


def test_what_does_not_fit_is_refused_with_the_table_and_what_would(wan: Any) -> None:
    guard = MemoryCheck(at_480p(wan), {"cuda:0": 19 * GB, "cpu": 64 * GB})
    with pytest.raises(UserError) as error:
        guard.check()
    assert guard.budget.table() in str(error.value)
    assert str(error.value).endswith(f"It would fit with {TINY}.")
    assert MemoryCheck(at_480p(wan), {"cuda:0": 80 * GB}).check().fits


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail] . DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_allocation_that_fails_ends_in_the_table(wan: Any, error: Exception) -> None:
    guard = MemoryCheck(at_480p(wan), {"cuda:0": 80 * GB})
    with pytest.raises(UserError) as caught, guard.explained(" See there."):
        raise error
    assert " See there.\n" in str(caught.value)
    assert guard.budget.table() in str(caught.value)
    assert f"set {TINY} (saves " in str(caught.value)
    assert f"{CPU} (saves " in str(caught.value)


def test_other_errors_pass(wan: Any) -> None:
    with pytest.raises(RuntimeError, match="shapes"), MemoryCheck(at_480p(wan), {}).explained():
        raise RuntimeError("shapes do not match")


def test_free_memory_of_the_cpu_is_known_here() -> None:
    free = free_memory("cpu")
    assert free is not None
    assert free > 10**7
    assert free_memory("meta") is None


def test_policy_that_says_what_it_keeps_at_most_is_not_followed_through_its_plans() -> None:
    class Stated(RollingSink):
        def plan(self, step: Step) -> ReadPlan:
            raise AssertionError("it was followed")

        def capacity(self, block: int) -> Capacity:
            return Capacity(frames=99, moves=44)

    def line_sizes(frames: int) -> dict[str, int]:
        work = work_of(Pocket(**SMALL), PocketCodec(width=16), FewStep(), {"p": Stated(2, 1)}, device="cpu",
                       frames=frames)  # fmt: skip
        return sizes(work)

    frame = 2 * 2 * 16 * 32 * 4
    assert line_sizes(600)["keys and values in view"] == frame * (2 + 1) * 3
    assert line_sizes(600)["raw keys and values"] == frame * 44
    assert line_sizes(6)["raw keys and values"] == frame * 6


def test_virtual_frames_are_counted() -> None:
    class Averaging(Window):
        def virtual(self, step: Step) -> list[Virtual]:
            return [Virtual(-1, (0,)), Virtual(-2, (0,))] if step.start == 3 else []

        def live(self, start: int, block: int) -> frozenset[int]:
            return super().live(start, block) | {-1, -2}

    def raw(policy: Window) -> int:
        work = work_of(Pocket(**SMALL), PocketCodec(width=16), FewStep(), {"p": policy}, device="cpu", frames=60)
        return sizes(work)["raw keys and values"]

    class Moving(Averaging):
        def moves(self, start: int, block: int) -> frozenset[int]:
            return frozenset([-1, -2])

    assert raw(Window(2)) == 0
    assert raw(Moving(2)) == 2 * 2 * 2 * 16 * 32 * 4
