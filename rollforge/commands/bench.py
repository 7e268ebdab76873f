"""``rollforge bench``: speed that describes itself."""

from __future__ import annotations

import platform
import resource
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import torch

from rollforge import __version__
from rollforge.backbones.base import Backbone, Condition, VideoCodec
from rollforge.backbones.pocket.codec import PocketCodec
from rollforge.backbones.pocket.network import Pocket
from rollforge.backbones.wan.network import Wan
from rollforge.commands.arguments import Arguments, device, number
from rollforge.commands.output import say
from rollforge.errors import UserError
from rollforge.policies.base import CachePolicy
from rollforge.ranges import Range
from rollforge.registry import registry
from rollforge.rollout import Rollout
from rollforge.samplers import Euler, FewStep, Sampler


def parity_size() -> tuple[Backbone, VideoCodec | None, Sampler]:
    """The network of the parity cases: 2 layers, width 96, 24 tokens a frame."""
    sizes: dict[str, Any] = {
        "dim": 96,
        "layers": 2,
        "heads": 3,
        "ffn_dim": 384,
        "freq_dim": 64,
        "text_dim": 64,
        "text_len": 16,
    }
    return Wan(height=8, width=12, **sizes), None, FewStep()


def pocket_size() -> tuple[Backbone, VideoCodec | None, Sampler]:
    """Pocket, with its codec."""
    return Pocket(), PocketCodec(), Euler(steps=8, shift=2.0)


MODELS: dict[str, Callable[[], tuple[Backbone, VideoCodec | None, Sampler]]] = {
    "parity": parity_size,
    "pocket": pocket_size,
}


def run(arguments: list[str]) -> None:
    """Times rollouts of the chosen models under the chosen policies."""
    parser = Arguments(prog="rollforge bench", description="Time the rollout, block by block.")
    parser.add_argument("--model", choices=MODELS, action="append", help="default: all")
    parser.add_argument("--policy", action="append", help="default: Window and RollingSink")
    parser.add_argument(
        "--blocks", type=number(Annotated[int, Range(1, 1_000_000)]), default=100, help="blocks to roll (default 100)"
    )
    parser.add_argument(
        "--threads", type=number(Annotated[int, Range(1, 1024)]), default=None, help="CPU threads (default: torch's)"
    )
    parser.add_argument("--device", type=device, default="cpu", help="cpu or cuda")
    chosen = parser.parse_args(arguments)
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    say(_machine(chosen.device) + "\n\n" + HEADER + "\n")
    for name in chosen.model or MODELS:
        for policy in chosen.policy or ["Window", "RollingSink"]:
            say(measure(name, _policy(policy), chosen.blocks, chosen.device) + "\n")
    say(NOTE)


HEADER = (
    "| model | policy | blocks timed | first block, ms | median block, ms | last tenth / first tenth "
    "| decode, ms | FPS | peak MiB |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
NOTE = """
A block is 3 latent frames: every denoising pass and the commit pass. Random weights, batch 1, float32, eager, attention
by torch's scaled_dot_product_attention. The median and the tenths are of blocks with a full window (from block 8 on).
Decode (Pocket) is timed apart; FPS is pixel frames per second with it (latent frames where there is no codec); encoding
to mp4 is not included. Peak memory is of the process (CPU) or of the allocator (CUDA), everything so far included.
"""


@torch.no_grad()
def measure(name: str, policy: CachePolicy, blocks: int, device: str) -> str:
    """One row of the table."""
    torch.manual_seed(0)
    backbone, codec, sampler = MODELS[name]()
    backbone = backbone.to(device).eval()
    decode = codec.to(device).eval().stream() if codec else None
    text = torch.zeros(1, 4, 64)
    rollout = Rollout(backbone, policy, sampler)
    times, decodes = [], []
    before = time.perf_counter()
    for block in rollout(Condition("bench", text), blocks * backbone.spec.block):
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
    fps = backbone.spec.block * 1000 / (median + decoding)
    return (
        f"| {name} | {type(policy).__name__} | {len(full)} of {blocks} | {times[0]:.1f} | {median:.2f} | {ratio:.2f} | "
        f"{f'{decoding:.2f}' if decode else '-'} | {fps:.1f} | {_peak(device):.0f} |"
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
