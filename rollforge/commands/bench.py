"""``rollforge bench``: speed that describes itself."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated

import torch

from rollforge import __version__
from rollforge.commands.arguments import Arguments, device, number, path
from rollforge.commands.bench_models import MODELS, configured, named
from rollforge.commands.bench_run import Timing, Way, measure
from rollforge.commands.output import print_out
from rollforge.errors import UserError
from rollforge.files.writing import write_json
from rollforge.policies.base import CachePolicy
from rollforge.ranges import Range
from rollforge.registry import registry


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
    parser.add_argument("--json", type=path, default=None, help="also write what was measured to this file")
    parser.add_argument("--device", type=device, default="cpu", help="cpu or cuda")
    parser.add_argument("--full_window", action="store_true", help="start with a full window of random keys")
    parser.add_argument(
        "--compile", choices=("default", "max-autotune"), help="compile the network; implies --full_window"
    )
    chosen, rest = parser.parse_known_args(arguments)
    if chosen.config and chosen.model:
        raise UserError("bench takes --model or --config, not both.")
    if rest and not chosen.config:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    print_out(_machine(chosen.device) + "\n\n" + HEADER + "\n")
    timings: list[Timing] = []
    way = Way(chosen.device, chosen.full_window or chosen.compile is not None, chosen.compile)
    models = [configured(chosen.config, rest)] if chosen.config else map(named, chosen.model or MODELS)
    for model in models:
        policies = [_policy(name) for name in chosen.policy or ()] or model.policies
        for policy in policies:
            timings.append(measure(model, policy, chosen.blocks, way))
            print_out(row(timings[-1]) + "\n")
    print_out("\n".join(["", PARTS, *map(parts, timings), NOTE]))
    if chosen.json:
        runs = [timing.as_dict() for timing in timings]
        write_json(Path(chosen.json), {"machine": _machine(chosen.device), "included": NOTE.strip(), "runs": runs})


HEADER = (
    "| model | policy | blocks timed | first block, ms | median block, ms | last tenth / first tenth "
    "| decode, ms | FPS | peak MiB |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
PARTS = (
    "| a block, ms | denoise | commit | idle | encode | p90 | x real time | operators | kernels | TFLOP | floor "
    "| attention | graphs, breaks |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)
NOTE = """
A block is 3 latent frames in parity and pocket, else the network's own: every denoising pass and the commit pass.
Random weights (with --config those that it names), batch 1, eager unless --compile is given; attention is the
kernel of self-attention without a bias. The median and the tenths are of blocks with a full window (from block 8 on;
with --full_window, which starts with random keys after 100 blocks, from block 2 on).
Decode is timed apart; FPS is pixel frames per second with it (latent frames where there is no codec); encoding
to mp4 is timed and not included. Denoise, commit and idle (sampler, noise, plans) are means over all blocks. Operators
are what torch's dispatcher runs for one more block, eager and without views; kernels are what a block starts on CUDA.
The floor is the time of its matrix products,
convolutions and attention at the rate of one large product, or of its bytes (weights, keys and values, once a pass) at
the rate of one large copy, whichever is longer. Graphs and breaks are those of torch.compile in all blocks; the first
block includes compiling. Peak memory is of the process (CPU) or of the allocator (CUDA), everything so far included.
"""


def row(timing: Timing) -> str:
    """One row of the first table."""
    decode = "-" if timing.decode is None else f"{timing.decode:.2f}"
    return (
        f"| {timing.model} | {timing.policy} | {timing.timed} of {timing.blocks} | {timing.first:.1f} "
        f"| {timing.median:.2f} | {timing.growth:.2f} | {decode} | {timing.fps:.1f} | {timing.peak_mib:.0f} |"
    )


def parts(timing: Timing) -> str:
    """One row of the second table."""
    encode = "-" if timing.encode is None else f"{timing.encode:.2f}"
    kernels = "-" if timing.kernels is None else timing.kernels
    graphs = "eager" if timing.compiled is None else f"{timing.graphs}, {timing.graph_breaks} ({timing.compiled})"
    return (
        f"| {timing.policy}, {timing.model} | {timing.denoise:.2f} | {timing.commit:.2f} | {timing.idle:.2f} "
        f"| {encode} | {timing.p90:.2f} | {timing.real_time:.2f} | {timing.operators} | {kernels} "
        f"| {timing.tflop:.4f} | {timing.floor:.2f} | {timing.attention} | {graphs} |"
    )


def _policy(name: str) -> CachePolicy:
    registry().require(name)
    part = registry().find(name)
    if part.kind != "cache":
        raise UserError(f"{name} is a {part.kind}, not a cache policy; see: rollforge plugins.")
    policy: CachePolicy = part.load()()
    return policy


def _machine(device: str) -> str:
    where = torch.cuda.get_device_name() if device.startswith("cuda") else f"{platform.machine()}, {_processor()}"
    return f"rollforge {__version__}, torch {torch.__version__}, {where}, {torch.get_num_threads()} threads"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"
