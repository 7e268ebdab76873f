"""Finished run folders as ``rollforge test`` leaves them, made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rollforge.comparison.runs import Run
from rollforge.comparison.vary import points
from rollforge.evaluation.evaluation import plain
from rollforge.evaluation.prompts import over_prompts
from rollforge.metrics.curves import CurveFile, read_curves
from rollforge.metrics.summary import mean, summarise
from rollforge.video.writer import VideoWriter

FPS, SECONDS, SIZE, HORIZON = 16.0, 4.0, (32, 32), 1.3125
HOSTILE = "</script><img src=x onerror=alert(1)>"
POLICIES: dict[str, dict[str, Any]] = {
    "Window": {"class_path": "rollforge.policies.window.Window", "init_args": {"context_blocks": 6}},
    "AttentionSink": {
        "class_path": "rollforge.policies.attention_sink.AttentionSink",
        "init_args": {"context_blocks": 6, "sink_blocks": 5},
    },
    "SlidingIndices": {
        "class_path": "rollforge.policies.sliding_indices.SlidingIndices",
        "init_args": {"context_blocks": 6, "sink_blocks": 5},
    },
    "RollingSink": {
        "class_path": "rollforge.policies.rolling_sink.RollingSink",
        "init_args": {"context_blocks": 6, "sink_blocks": 5},
    },
}


def config(policy: str, prompts: list[str], seconds: float = SECONDS) -> dict[str, Any]:
    """A resolved config."""
    return {
        "model": {
            "backbone": {"class_path": "rollforge.backbones.pocket.network.Pocket", "init_args": {"block": 3}},
            "policy": POLICIES[policy],
        },
        "data": {"prompts": prompts, "seconds": seconds, "seed": 0},
        "seed_everything": 0,
    }


def curves(drift: float, sample: int, frames: int) -> dict[str, Any]:
    """Curves of one video: one that falls, one that rises, one that is not known at first."""
    noise = np.random.default_rng([sample, round(1000 * drift)])
    time = np.arange(frames) / max(1, frames - 1)
    late = np.where(time < 0.1, np.nan, time)
    made = {
        "presence": np.clip(0.95 - drift * time + noise.normal(0, 0.02, frames), 0, 1),
        "colour_error": 0.05 + 0.2 * drift * time + noise.normal(0, 0.005, frames),
        "sharpness": 400 * (1 - 0.5 * drift * time) + noise.normal(0, 10, frames) + 20 * sample,
        "repetition": np.clip(0.2 + drift * late, 0, 1),
    }
    return {name: torch.from_numpy(curve) for name, curve in made.items()}


def finish(run: Run, prompts: list[str], drift: float, seconds: float = SECONDS) -> None:
    """Fills a run's folder."""
    run.note(versions={"python": "3.11", "machine": {"cpu": "an abacus"}}, wall_seconds=12.5, peak_memory_mib=512.25)
    frames, policy = round(seconds * FPS), run.point.label.split(",")[0]
    made, entries = [], []
    for sample, prompt in enumerate(prompts):
        stem = f"{sample:03d}-video"
        with VideoWriter(run.folder / f"{stem}.mp4", SIZE, FPS, scale=4) as writer:
            writer.write(pictures(frames, sample, drift))
        CurveFile(run.folder / f"{stem}.curves.csv", FPS).add(curves(drift, sample, frames), 0)
        columns = read_curves(run.folder / f"{stem}.curves.csv")
        own = {name: curve for name, curve in columns.items() if name not in ("frame", "seconds")}
        speed = {"wall_seconds": 3.0 + sample, "first_block_seconds": 0.5, "steady_fps": 21.0}
        entry = {"file": f"{stem}.mp4", "prompt": prompt, "seed": 0, "sample": sample, "policy": policy}
        made.append(
            entry | speed
            | {"fps": FPS, "size": [128, 128], "frames": frames, "seconds": seconds, "measured": {}, "complete": True}
        )  # fmt: skip
        marks = {"1": {name: mean(curve[:21]) for name, curve in own.items()}}
        marks["3"] = {name: mean(curve[42:63]) for name, curve in own.items()}
        entries.append(
            entry | {"curves": f"{stem}.curves.csv", "latents": None, "figures": {}, "speed": speed, "marks": marks}
            | {"summary": summarise(own, FPS, HORIZON)}
        )  # fmt: skip
    metrics = {
        "rollforge": "0", "config_hash": "x", "fps": FPS, "horizon_seconds": HORIZON, "policy": policy,
        "truth": {"presence": {"level": {"mean": 0.97, "low": 0.96, "high": 0.98, "values": 2}}},
        "videos": entries, "over_prompts": over_prompts(entries),
    }  # fmt: skip
    (run.folder / "manifest.json").write_text(json.dumps({"complete": True, "videos": made}))
    (run.folder / "metrics.json").write_text(json.dumps(plain(metrics)))


def pictures(frames: int, sample: int, drift: float) -> Any:
    """A bar that moves over a ground that brightens."""
    video = np.zeros((frames, SIZE[1], SIZE[0], 3), np.uint8)
    for n in range(frames):
        video[n] = (40 + 20 * sample, 60, round(60 + 150 * drift * n / frames))
        video[n, :, n % SIZE[0]] = (255, 220, 90)
    return video


def finished_runs(folder: Path, prompts: list[str], policies: int = 4, seconds: float = SECONDS) -> list[Run]:
    """Finished runs of the first of four policies; the later ones drift less."""
    names = list(POLICIES)[:policies]
    runs = []
    for n, point in enumerate(points([f"model.policy={','.join(names)}"])):
        shared = ["--config=tiny.yaml", *point.arguments]
        asked = len(prompts) * seconds
        run = Run(point, config(names[n], prompts, seconds), f"{n:064x}", folder / "runs", shared, asked)
        finish(run, prompts, drift=0.8 - 0.25 * n, seconds=seconds)
        runs.append(run)
    return runs
