"""Speed and memory of the block loop: eager, whole with codec and file, under each attention kernel, compiled."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from rollforge.backbones.base import VideoCodec
from rollforge.backbones.wan.network import Wan
from rollforge.budget import budget_of, work_of
from rollforge.errors import PartError, UserError
from rollforge.gpu.loop import Times, peak_bytes, reset_peak, run_blocks
from rollforge.gpu.models import Setup
from rollforge.gpu.report import Recorder
from rollforge.gpu.timing import Clock
from rollforge.policies import RollingSink, Window
from rollforge.samplers import FewStep

KERNELS = ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH")


def machine(setup: Setup, record: Recorder) -> None:
    """The card, and what it does at best: one large product in bf16, one large copy."""
    if setup.device != "cuda":
        return record("cpu", {"torch": torch.__version__})
    clock, size = Clock(setup.device), 8192
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    source = torch.randn(2**30, device="cuda", dtype=torch.bfloat16)
    target = torch.empty_like(source)
    product = clock.milliseconds(lambda: left @ right)
    copy = clock.milliseconds(lambda: target.copy_(source))
    free, total = torch.cuda.mem_get_info()
    versions = {
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
    }
    speeds = {"bf16 TFLOP/s": 2 * size**3 / product / 1e9, "copy TB/s": 2 * source.nbytes / copy / 1e9}
    memory = {"memory GB": total / 1e9, "free GB": free / 1e9}
    return record(torch.cuda.get_device_name(), {**versions, **speeds, **memory})


def network(setup: Setup, record: Recorder) -> None:
    """The network alone, eager: denoising passes and the commit pass."""
    backbone = setup.backbone()
    for policy in (Window(), RollingSink()):
        times = run_blocks(backbone, setup.text(backbone), policy, setup.device)
        record(f"network only, eager, {type(policy).__name__}, {setup.name}", times.values())


def pipeline(setup: Setup, record: Recorder) -> None:
    """The whole loop under each codec, with the file, and its peak memory against the budget."""
    backbone = setup.backbone()
    for name, build in setup.codecs().items():
        try:
            codec = build()
        except UserError as error:
            record(f"whole loop, {name}", {"skipped": str(error)})
            continue
        _whole_loop(setup, record, backbone, codec)


def _whole_loop(setup: Setup, record: Recorder, backbone: Wan, codec: VideoCodec) -> None:
    what, spec, policy = f"{type(codec).__name__}, RollingSink, {setup.name}", backbone.spec, RollingSink()
    reset_peak(setup.device)
    with ExitStack() as stack:
        write = _writer(stack, codec.pixel_size(spec.width, spec.height), record)
        times = run_blocks(backbone, setup.text(backbone), policy, setup.device, codec.stream(), write)
    values = times.values()
    pixels = codec.pixel_frames(2 * spec.block) - codec.pixel_frames(spec.block)
    record(f"whole loop, eager, {what}", {"FPS": pixels * 1e3 / values["block ms"], **values})
    if setup.device != "cuda":
        return record(f"peak memory against the budget, {what}", {"skipped": "needs CUDA"})
    work = work_of(backbone, codec, FewStep(), {"model.policy": policy}, device="cuda", frames=1203)
    budget, peak = budget_of(work, {}).needed("cuda"), peak_bytes("cuda")
    values = {"peak GB": peak / 1e9, "budget GB": budget / 1e9, "peak / budget": peak / budget}
    return record(f"peak memory against the budget, {what}", values, peak <= budget)


def kernels(setup: Setup, record: Recorder) -> None:
    """Each kernel of ``scaled_dot_product_attention``: alone, then in the loop."""
    clock, backbone = Clock(setup.device), setup.backbone()
    spec, block = backbone.spec, backbone.spec.block
    dtype = torch.bfloat16 if setup.full else torch.float32
    for name in KERNELS:
        kernel = getattr(SDPBackend, name)
        for frames in (block, spec.window):
            queries, keys = block * spec.tokens, frames * spec.tokens
            q, k, v = (
                torch.randn(1, spec.heads, length, spec.head_dim, device=setup.device, dtype=dtype)
                for length in (queries, keys, keys)
            )
            what = f"{name}, {queries} queries on {keys} keys"
            try:
                with sdpa_kernel([kernel]):
                    took = clock.milliseconds(partial(functional.scaled_dot_product_attention, q, k, v))
            except RuntimeError as error:
                record(what, {"skipped": _why(error)})
                continue
            work = 4 * queries * keys * spec.heads * spec.head_dim
            record(what, {"ms": took, "TFLOP/s": work / took / 1e9})
    for name in KERNELS[:3]:
        what = f"{name} in the loop, RollingSink, {setup.name}"
        try:
            with sdpa_kernel([getattr(SDPBackend, name)]):
                times = run_blocks(backbone, setup.text(backbone), RollingSink(), setup.device)
        except PartError as error:
            record(what, {"skipped": _why(error.__cause__ or error)})
            continue
        record(what, times.values())


def compiled(setup: Setup, record: Recorder) -> None:
    """The network compiled as it is, against eager in the same process, from a full window on."""
    backbone = setup.backbone()
    text = setup.text(backbone)
    eager = run_blocks(backbone, text, RollingSink(), setup.device, full_window=True)
    backend = "inductor" if setup.full else "eager"
    began = time.perf_counter()
    backbone.compile(backend=backend)
    values = run_blocks(backbone, text, RollingSink(), setup.device, full_window=True).values()
    ratio = _median(eager) / values["block ms"]
    record(
        f"compiled ({backend}), RollingSink, {setup.name}",
        {"eager / compiled": ratio, **values, "all s": time.perf_counter() - began},
    )


def fused(setup: Setup, record: Recorder) -> None:
    """The commit in one pass with the next block's first step, against passes of their own."""
    backbone = setup.backbone()
    text = setup.text(backbone)
    apart, one = (
        run_blocks(backbone, text, RollingSink(), setup.device, full_window=True, fuse_commit=fuse)
        for fuse in (False, True)
    )
    record(f"fuse_commit, RollingSink, {setup.name}", {"apart / fused": _median(apart) / _median(one), **one.values()})


def _why(error: BaseException) -> str:
    """The first sentence of what torch says, which has no kernel for every card and dtype."""
    return str(error).partition("\n")[0].partition(". ")[0]


def _median(times: Times) -> float:
    return float(times.values()["block ms"])


def _writer(stack: ExitStack, size: tuple[int, int], record: Recorder) -> Any:
    """A function that appends frames to a video in a temporary folder; None, and a row, without PyAV."""
    try:
        from rollforge.video.writer import VideoWriter
    except ImportError as error:
        record("encoding", {"skipped": f"needs the package {error.name}"})
        return None
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    writer = stack.enter_context(VideoWriter(Path(folder) / "check.mp4", size, 16))
    return lambda pixels: writer.write(pixels[0].numpy())
