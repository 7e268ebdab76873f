"""``python -m rollforge_commit``: what commit passes cost, counted for Wan 2.1 1.3B and timed on Pocket."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping

import torch

from rollforge.backbones.pocket.network import Pocket
from rollforge.backbones.pocket.text import PocketText
from rollforge.backbones.wan.network import Wan
from rollforge.policies import CachePolicy, RollingSink
from rollforge.rollout import Rollout
from rollforge.samplers import FewStep, Sampler
from rollforge_commit import CommitRecent, WithCommit
from rollforge_commit.work import work_of_block

BLOCKS = 60  # of each rollout; the first ones, whose window is not full, are not timed
FULL = 8
WAYS: Mapping[str, tuple[CachePolicy, Sampler]] = {
    "Rolling Sink": (RollingSink(), FewStep()),
    "CommitRecent, 6 frames": (CommitRecent(RollingSink(), 6), FewStep()),
    "CommitRecent, 21 frames": (CommitRecent(RollingSink(), 21), FewStep()),
    "commit: last": (RollingSink(), WithCommit(FewStep())),
}


def counted() -> Mapping[str, str]:
    """Operations of a block of Wan 2.1 1.3B at 480x832."""
    with torch.device("meta"):
        network = Wan()
    every = {name: work_of_block(network, *way) for name, way in WAYS.items()}
    plain = every["Rolling Sink"]
    return {
        name: f"{work.attention / 1e12:.1f} ({work.attention / plain.attention - 1:+.1%}) | "
        f"{work.whole / 1e12:.1f} ({work.whole / plain.whole - 1:+.1%})"
        for name, work in every.items()
    }


def timed() -> Mapping[str, float]:
    """Median milliseconds of processor time of a block of Pocket; the rollouts take turns, block by block."""
    network, text = Pocket(weights="pocket").eval(), PocketText()(["a red ball over snow at day"])
    runs = {name: Rollout(network, *way)(text, BLOCKS * network.spec.block) for name, way in WAYS.items()}
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(BLOCKS):
        for name, run in runs.items():
            start = time.process_time()
            next(run)
            taken[name].append(time.process_time() - start)
    return {name: 1000 * statistics.median(each[FULL:]) for name, each in taken.items()}


def main() -> None:
    lines = ["| | attention of a block, TFLOP | all of a block, TFLOP | Pocket, ms a block |", "|---|---|---|---|"]
    milliseconds = timed()
    for name, operations in counted().items():
        change = milliseconds[name] / milliseconds["Rolling Sink"] - 1
        lines.append(f"| {name} | {operations} | {milliseconds[name]:.1f} ({change:+.1%}) |")
    sys.stdout.write("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
