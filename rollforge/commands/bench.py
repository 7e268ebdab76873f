"""``rollforge bench``: speed that describes itself."""

from __future__ import annotations

import platform
import resource
import statistics
import time
from typing import Annotated

import torch

from rollforge import __version__
from rollforge.commands.arguments import Arguments, device, number, path
from rollforge.commands.bench_models import MODELS, Model, configured, named
from rollforge.commands.output import print_out
from rollforge.errors import UserError
from rollforge.policies.base import CachePolicy
from rollforge.ranges import Range
from rollforge.registry import registry
from rollforge.rollout import Rollout


def run(arguments: list[str]) -> None:
    """Times rollouts of the chosen models under the chosen policies."""
    parser = Arguments(prog="rollforge bench", description="Time the rollout, block by block.")
    parser.add_argument("--model", choices=MODELS, action="append", help="default: all")
    parser.add_argument("-c", "--config", type=path, help="time the model of a config; more as to predict")
    parser.add_argument("--policy", action="append", help="default: Window and RollingSink, or the config's")
    parser.add_argument(
        "--blocks", type=number(Annotated[int, Range(1, 1_000_000)]), default=100, help="blocks to roll (default 100)"
    )
    parser.add_argument(
        "--threads", type=number(Annotated[int, Range(1, 1024)]), default=None, help="CPU threads (default: torch's)"
    )
    parser.add_argument("--device", type=device, default="cpu", help="cpu or cuda")
    chosen, rest = parser.parse_known_args(arguments)
    if chosen.config and chosen.model:
        raise UserError("bench takes --model or --config, not both.")
    if rest and not chosen.config:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    print_out(_machine(chosen.device) + "\n\n" + HEADER + "\n")
    models = [configured(chosen.config, rest)] if chosen.config else map(named, chosen.model or MODELS)
    for model in models:
        policies = [_policy(name) for name in chosen.policy or ()] or model.policies
        for policy in policies:
            print_out(measure(model, policy, chosen.blocks, chosen.device) + "\n")
    print_out(NOTE)


HEADER = (
    "| model | policy | blocks timed | first block, ms | median block, ms | last tenth / first tenth "
    "| decode, ms | FPS | peak MiB |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
NOTE = """
A block is 3 latent frames in parity and pocket, else the network's own: every denoising pass and the commit pass.
Random weights (with --config those that it names), batch 1, float32, eager, attention by torch's
scaled_dot_product_attention. The median and the tenths are of blocks with a full window (from block 8 on).
Decode is timed apart; FPS is pixel frames per second with it (latent frames where there is no codec); encoding
to mp4 is not included. Peak memory is of the process (CPU) or of the allocator (CUDA), everything so far included.
"""


@torch.no_grad()
def measure(model: Model, policy: CachePolicy, blocks: int, device: str) -> str:
    """One row of the table."""
    backbone, codec = model.backbone.to(device).eval(), model.codec
    decode = codec.to(device).eval().stream() if codec else None
    rollout = Rollout(backbone, policy, model.sampler, **model.options)
    frames = blocks * backbone.spec.block
    times, decodes = [], []
    before = time.perf_counter()
    for block in rollout(model.condition, frames, negative=model.negative):
        _wait(device)
        times.append((time.perf_counter() - before) * 1000)
        before = time.perf_counter()
        if decode:
            decode(block.latents)
            _wait(device)
            decodes.append((time.perf_counter() - before) * 1000)
        before = time.perf_counter()
    full = times[8:] or times[1:] or times
    tenth = max(1, len(full) // 10)
    ratio = statistics.median(full[-tenth:]) / statistics.median(full[:tenth])
    median, decoding = statistics.median(full), statistics.median(decodes) if decodes else 0.0
    fps = model.frames_of_a_block * 1000 / (median + decoding)
    return (
        f"| {model.name} | {type(policy).__name__} | {len(full)} of {blocks} | {times[0]:.1f} | {median:.2f} "
        f"| {ratio:.2f} | {f'{decoding:.2f}' if decode else '-'} | {fps:.1f} | {_peak(device):.0f} |"
    )


def _policy(name: str) -> CachePolicy:
    registry().require(name)
    part = registry().find(name)
    if part.kind != "cache":
        raise UserError(f"{name} is a {part.kind}, not a cache policy; see: rollforge plugins.")
    policy: CachePolicy = part.load()()
    return policy


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _peak(device: str) -> float:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _machine(device: str) -> str:
    where = torch.cuda.get_device_name() if device.startswith("cuda") else f"{platform.machine()}, {_processor()}"
    return f"rollforge {__version__}, torch {torch.__version__}, {where}, {torch.get_num_threads()} threads"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"
