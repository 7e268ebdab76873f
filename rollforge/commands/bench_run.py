"""One rollout that ``rollforge bench`` times, and what it took."""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from rollforge.backbones.base import Backbone
from rollforge.commands.bench_models import Model
from rollforge.errors import UserError
from rollforge.gpu.full_window import with_full_window
from rollforge.gpu.timing import Clock, TimedSampler
from rollforge.policies.base import CachePolicy
from rollforge.rollout import Rollout, RolloutIterator

FULL = 8
"""Blocks before those that are timed: then the default window is full."""
WARM = 2
"""The same where the window is full from the start."""


@dataclass(frozen=True)
class Way:
    """How a rollout is run.

    Args:
        device: of the network.
        full_window: whether it starts with a full window of random keys.
        compile: the mode of ``torch.compile``; None runs eagerly.
    """

    device: str = "cpu"
    full_window: bool = False
    compile: str | None = None


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a block, unless stated otherwise.

    Args:
        model: what was rolled.
        policy: under which cache policy.
        timed: blocks that count.
        blocks: blocks in all.
        first: the first block.
        median: of the timed ones.
        p90: nine of ten took no longer.
        growth: median of the last tenth divided by that of the first.
        denoise: the denoising passes, on average over all blocks.
        commit: the passes that write keys and values, likewise.
        idle: the rest of the average block: the sampler, its noise, and plans.
        decode: median; None without a codec.
        encode: median of writing the frames to an mp4; None without a codec.
        fps: frames per second with decoding: pixel frames, latent frames where there is no codec.
        real_time: seconds of video made in a second.
        operators: what torch's dispatcher runs for a block, without views.
        tflop: multiplications and additions of matrix products, convolutions and attention, in 1e12.
        floor: what the block would take at the measured rates of a matrix product and of a copy.
        peak_mib: peak memory so far, of the process or of the CUDA allocator, in MiB.
        attention: the kernel that attends without a bias.
        compiled: the mode of ``torch.compile``; None where the network ran eagerly.
        graphs: that were compiled, all blocks included.
        graph_breaks: where a pass left its graph.
        kernels: that one block starts on a CUDA device; None elsewhere.
    """

    model: str
    policy: str
    timed: int
    blocks: int
    first: float
    median: float
    p90: float
    growth: float
    denoise: float
    commit: float
    idle: float
    decode: float | None
    encode: float | None
    fps: float
    real_time: float
    operators: int
    tflop: float
    floor: float
    peak_mib: float
    attention: str
    compiled: str | None
    graphs: int
    graph_breaks: int
    kernels: int | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Rates:
    """What the machine does at best: operations of one large matrix product, and bytes of one large copy, a second."""

    product: float
    copy: float

    @classmethod
    @cache
    def measured(cls, device: str, dtype: torch.dtype) -> Rates:
        """In half a second on a CPU."""
        clock, size = Clock(_kind(device)), 8192 if device.startswith("cuda") else 1024
        one = torch.randn(size, size, device=device, dtype=dtype)
        source = torch.randn(16 * size, size, device=device, dtype=dtype)
        target = torch.empty_like(source)
        product = min(clock.milliseconds(lambda: one @ one, 3, 1) for _ in range(3))
        copy = min(clock.milliseconds(lambda: target.copy_(source), 3, 1) for _ in range(3))
        return cls(2 * size**3 / product * 1e3, 2 * source.nbytes / copy * 1e3)


class Operators(TorchDispatchMode):
    """Counts what the dispatcher runs, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not (func.is_view or func is torch.ops.aten._unsafe_view.default)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def measure(model: Model, policy: CachePolicy, blocks: int, way: Way) -> Timing:
    """Rolls ``blocks`` blocks, and more to count the work of one."""
    device, backbone = way.device, model.backbone.to(way.device).eval()
    clock, times, decodes, encodes = Clock(_kind(device)), list[float](), list[float](), list[float]()
    if way.compile:
        _compile(backbone, way.compile)
    run = _start(Rollout(backbone, policy, model.sampler, **model.options), model, blocks + 3, way)
    run.parts.sampler = TimedSampler(run.sampler, clock)
    with _output(model, device) as (decode, encode):
        for _ in range(blocks):
            latents, took = _timed(clock, lambda: next(run).latents)
            times.append(took)
            if decode and encode:
                frames, took = _timed(clock, lambda: decode(latents))  # noqa: B023 # called at once
                decodes.append(took)
                encodes.append(_timed(clock, lambda: encode(frames))[1])  # noqa: B023
    phases = {name: took / blocks for name, took in clock.take().items()}
    denoise, commit = phases.pop("denoise", 0.0), sum(phases.values())
    full = times[WARM if way.full_window else FULL :] or times[1:] or times
    tenth = max(1, len(full) // 10)
    median, decoding = statistics.median(full), statistics.median(decodes) if decodes else None
    fps = model.frames_of_a_block * 1e3 / (median + (decoding or 0.0))
    return Timing(
        model.name, type(policy).__name__, len(full), blocks, times[0], median, sorted(full)[(9 * len(full) - 1) // 10],
        statistics.median(full[-tenth:]) / statistics.median(full[:tenth]), denoise, commit,
        max(0.0, statistics.mean(times) - denoise - commit), decoding,
        statistics.median(encodes) if encodes else None, fps, fps / _frames_per_second(model),
        *_work(run, backbone, way), _peak(device), _attention(run), way.compile,
        *(_graphs() if way.compile else (0, 0)), _kernels(run, device),
    )  # fmt: skip


def _compile(backbone: Backbone, mode: str) -> None:
    """Lets the network be compiled in its first passes, and counts from here on."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    backbone.compile(mode=mode)


def _graphs() -> tuple[int, int]:
    """Graphs that were compiled, and how often a pass left one."""
    counters = torch._dynamo.utils.counters
    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


def _start(rollout: Rollout, model: Model, blocks: int, way: Way) -> RolloutIterator:
    """The rollout. Raises ``UserError`` where it cannot start with a full window."""
    if not way.full_window:
        return rollout(model.condition, blocks * rollout.backbone.spec.block, negative=model.negative)
    if (run := with_full_window(rollout, model.condition, blocks, model.negative)) is None:
        raise UserError(
            f"{type(rollout.policy).__name__} cannot start with a full window of random keys, since what it reads "
            "depends on earlier blocks or on the memory; leave out --full_window."
        )
    return run


def _kernels(run: RolloutIterator, device: str) -> int | None:
    """Kernels that one more block starts."""
    if not device.startswith("cuda"):
        return None
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        next(run)
        torch.cuda.synchronize()
    return sum(event.count for event in profiled.key_averages() if event.device_type is DeviceType.CUDA)


def _attention(run: RolloutIterator) -> str:
    memory = next(iter(run.passes.memories.values()))
    return memory.kernel.describe(run.passes.device, run.passes.dtype, run.spec.head_dim)


def _work(run: RolloutIterator, backbone: Backbone, way: Way) -> tuple[int, float, float]:
    """Operators of one more block, its multiplications and additions in 1e12, and milliseconds at the best rates."""
    calls: list[int] = []
    attention = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flop}
    counted = FlopCounterMode(display=False, custom_mapping=attention)
    weight = next(backbone.parameters(), torch.zeros(0))
    hook = backbone.register_forward_pre_hook(lambda *_: calls.append(1))
    eager = torch.compiler.set_stance("force_eager") if way.compile else nullcontext()
    with eager, Operators() as operators, counted:
        next(run)
    hook.remove()
    flop, rates = counted.get_total_flops(), Rates.measured(way.device, weight.dtype)
    moved = len(calls) * (sum(each.nbytes for each in backbone.parameters()) + run.passes.nbytes)
    return operators.count, flop / 1e12, 1e3 * max(flop / rates.product, moved / rates.copy)


def _attention_flop(q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> int:
    rows, heads, length, channels = q
    return int(2 * rows * heads * length * k[2] * (channels + v[3]))


@contextmanager
def _output(
    model: Model, device: str
) -> Iterator[tuple[Callable[[Tensor], Tensor] | None, Callable[[Tensor], None] | None]]:
    """What decodes a block, and what writes its first video to a file that is then deleted."""
    if model.codec is None:
        yield None, None
        return
    from rollforge.pipeline.video_rollout import to_bytes
    from rollforge.video.writer import VideoWriter

    spec = model.backbone.spec
    with tempfile.TemporaryDirectory() as folder:
        size, fps = model.codec.pixel_size(spec.width, spec.height), _frames_per_second(model)
        with VideoWriter(Path(folder) / "bench.mp4", size, fps) as writer:
            yield model.codec.to(device).eval().stream(), lambda frames: writer.write(to_bytes(frames)[0].numpy())


def _frames_per_second(model: Model) -> float:
    """Of the video, in those frames that a block is counted in."""
    spec = model.backbone.spec
    return spec.fps * model.frames_of_a_block / spec.block


def _timed(clock: Clock, function: Callable[[], Tensor | None]) -> tuple[Any, float]:
    """What it returned, and milliseconds."""
    before = time.perf_counter()
    made = function()
    clock.wait()
    return made, (time.perf_counter() - before) * 1e3


def _kind(device: str) -> str:
    return device.partition(":")[0]


def _peak(device: str) -> float:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
