"""Runs over there, in VBench's interpreter: reads a job, writes a result, both JSON. Standard library and vbench only.

``python driver.py job.json result.json``. Errors are part of the result, so that one sentence can be made of them here.
Written for Python 3.8 and newer; nothing of rollforge is imported.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import subprocess
import sys
import traceback
from importlib import metadata
from typing import Any, Dict  # noqa: UP035 # Python 3.8

Json = Dict[str, Any]  # noqa: UP006 # Python 3.8
PACKAGES = ("vbench", "torch", "torchvision", "numpy", "transformers", "pyiqa", "decord", "dreamsim", "moviepy")


class Refused(Exception):
    """Something over there does not fit. The first argument is its kind, the second what to say."""


def main(job_file: str, result_file: str) -> None:
    """Scores one job. Whatever happens, ``result_file`` says it, whole or not at all."""
    with open(job_file, encoding="utf-8") as file:
        job = json.load(file)
    result: Json = {"dimensions": {}, "environment": environment()}
    state: Json = {"at": None}
    try:
        score(job, result, state)
    except Refused as refused:
        result["error"] = {"kind": refused.args[0], "message": refused.args[1], "at": state["at"]}
    except BaseException as error:  # SystemExit and the like of third-party code too
        traceback.print_exc()
        text = f"{type(error).__name__}: {error}"
        result["error"] = {"kind": "crash", "message": text.splitlines()[0], "at": state["at"]}
    with open(result_file + ".partial", "w", encoding="utf-8") as file:
        json.dump(result, file, default=str)
    os.replace(result_file + ".partial", result_file)


def environment() -> Json:
    """Versions of what matters here."""
    found: Json = {"python": platform.python_version(), "executable": sys.executable, "platform": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def score(job: Json, result: Json, state: Json) -> None:
    """Fills ``result``, one dimension after the other, so that a crash leaves those before it."""
    check_numpy(result["environment"])
    list_videos_first()
    benchmark, full_info = load(job, result["environment"])
    if job["mode"].endswith("standard"):
        result["coverage"] = coverage(job, full_info)
    keywords = long_keywords(job) if job["long"] else {}
    for dimension in job["dimensions"]:
        state["at"] = dimension
        name = "rollforge-" + dimension
        if job["long"]:
            keywords["static_filter_flag"] = bool(job["static_filter"]) and dimension == "temporal_flickering"
        benchmark.evaluate(
            videos_path=job["videos"],
            name=name,
            prompt_list=job["prompts"] if job["mode"] == "custom_input" else [],
            dimension_list=[dimension],
            local=job["local"],
            read_frame=False,
            mode=job["mode"],
            **keywords,
        )
        with open(os.path.join(job["output"], name + "_eval_results.json"), encoding="utf-8") as file:
            scored = json.load(file)
        if dimension not in scored:
            raise Refused("missing", f"VBench's result file holds no {dimension}")
        result["dimensions"][dimension] = scored[dimension]
    state["at"] = None
    result["keywords"] = keywords


def check_numpy(found: Json) -> None:
    """Refuses numpy 2 where this vbench was made for numpy 1; it would fail in the middle, or count wrongly."""
    try:
        needs = [need for need in metadata.requires("vbench") or [] if need.lower().startswith("numpy")]
    except metadata.PackageNotFoundError:
        needs = []
    major = (found["numpy"] or "0").split(".")[0]
    if int(major) >= 2 and any("<2" in need.replace(" ", "") for need in needs):
        asked = needs[0].split(";")[0].strip()
        text = f"vbench {found['vbench']} asks for {asked}, and numpy {found['numpy']} is installed there"
        raise Refused("numpy", text)


def list_videos_first() -> None:
    """Makes folders list in a fixed order, files first: VBench takes the suffix of all videos from the first entry."""
    plain = os.listdir

    def listdir(path: Any = ".") -> Any:
        return sorted(plain(path), key=lambda name: (os.path.splitext(name)[1] == "", name))

    os.listdir = listdir


def load(job: Json, found: Json) -> Any:
    """The benchmark, and VBench's list of prompts."""
    try:
        vbench = importlib.import_module("vbench")
    except ImportError as error:
        numpy = found["numpy"] or ""
        hint = f" (numpy {numpy} is installed; older releases need numpy<2)" if numpy.startswith("2") else ""
        raise Refused("install", f"vbench cannot be imported there ({error}){hint}") from error
    home = os.path.dirname(os.path.abspath(str(vbench.__file__)))
    full_info = job["full_info"] or os.path.join(home, "VBench_full_info.json")
    found["vbench_path"], found["vbench_commit"] = home, commit(home)
    kind: Any = long_module().VBenchLong if job["long"] else vbench.VBench
    return kind(device(job["device"]), full_info, job["output"]), full_info


def long_module() -> Any:
    """VBench-Long, under the names it has had."""
    tried = []
    for name in ("vbench2_beta_long", "vbench.long_eval"):
        try:
            return importlib.import_module(name)
        except ImportError as error:
            tried.append(f"{name}: {error}")
    raise Refused("install", f"VBench-Long cannot be imported there ({'; '.join(tried)})")


def long_keywords(job: Json) -> Json:
    """What VBench-Long's own command hands to ``evaluate``, with its defaults."""
    home = os.path.dirname(os.path.abspath(long_module().__file__))
    configs = os.path.join(home, "configs")
    wide = job["long_range"]
    return {
        "sb_clip2clip_feat_extractor": "dinov2" if wide else "dino",
        "bg_clip2clip_feat_extractor": "dreamsim" if wide else "clip",
        "imaging_quality_preprocessing_mode": "longer",
        "clip_length_config": job["clip_lengths"] or "clip_length_mix.yaml",
        "w_inclip": 1.0,
        "w_clip2clip": 0.0,
        "use_semantic_splitting": False,
        "slow_fast_eval_config": os.path.join(configs, "slow_fast_params.yaml"),
        "sb_mapping_file_path": os.path.join(configs, "subject_mapping_table.yaml"),
        "bg_mapping_file_path": os.path.join(configs, "background_mapping_table.yaml"),
        "dev_flag": wide,
        "num_of_samples_per_prompt": job["samples"],
    }


def coverage(job: Json, full_info: str) -> Json:
    """How many of VBench's prompts have a video, for each dimension; refuses videos of other prompts."""
    with open(full_info, encoding="utf-8") as file:
        entries = json.load(file)
    have = {os.path.splitext(name)[0].rpartition("-")[0] for name in job["prompts"]}
    unknown = sorted(have - {entry["prompt_en"] for entry in entries})
    if unknown:
        raise Refused("prompt", f"VBench's list does not have the prompt {unknown[0]!r} ({len(unknown)} such)")
    counts = {}
    for dimension in job["dimensions"]:
        wanted = {entry["prompt_en"] for entry in entries if dimension in entry["dimension"]}
        counts[dimension] = {"prompts": len(wanted & have), "of": len(wanted)}
    return counts


def device(name: str) -> Any:
    """A torch device, where there is torch."""
    try:
        return importlib.import_module("torch").device(name)
    except ImportError:
        return name


def commit(home: str) -> Any:
    """The commit of a checkout, or of what pip has installed from one; none where neither is known."""
    try:
        direct = json.loads(metadata.distribution("vbench").read_text("direct_url.json") or "{}")
        if direct.get("vcs_info"):
            return direct["vcs_info"].get("commit_id")
    except metadata.PackageNotFoundError:
        pass
    try:
        if not any(os.path.exists(os.path.join(place, ".git")) for place in (home, os.path.dirname(home))):
            return None
        line = ["git", "-C", home, "rev-parse", "HEAD"]
        return subprocess.run(line, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


if __name__ == "__main__":
    main(*sys.argv[1:3])
