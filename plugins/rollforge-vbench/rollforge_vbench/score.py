"""A scoring from videos to a file that says everything needed to judge and to repeat it."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rollforge import __version__ as rollforge_version
from rollforge.errors import UserError
from rollforge_vbench import __version__
from rollforge_vbench.dimensions import Aggregate, aggregate
from rollforge_vbench.interpreter import Interpreter
from rollforge_vbench.job import Job
from rollforge_vbench.prepare import prepare
from rollforge_vbench.result import Scored, covered, failure
from rollforge_vbench.sources import Source


def score(
    videos: Sequence[Source], job: Job, interpreter: Interpreter, out: Path, overwrite: bool = False, keep: bool = False
) -> Aggregate:
    """Scores videos into ``out``. Next to it are VBench's log and, while it works or if ``keep``, its folder.

    Raises:
        UserError: for whatever went wrong. Then there is no ``out``; the dimensions that were scored before are in
            ``<out>.partial.json``, which says that it is not complete.
    """
    partial, log, folder = (out.with_suffix(end) for end in (".partial.json", ".log", ".work"))
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists; choose another --out, or --overwrite to replace it.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for file in (out, partial):
            file.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}); choose another --out.") from error
    started = time.perf_counter()
    prepared = prepare(videos, job, folder)
    result = interpreter.run(job, prepared, folder, log)
    done, problem = _read(result, job, prepared, log)
    record = _record(prepared, result, interpreter, done) | {"wall_seconds": round(time.perf_counter() - started, 1)}
    if problem:
        if done:
            _write(partial, {"complete": False, "failure": problem} | record)
        raise UserError(problem + (f" What was scored is in {partial}." if done else ""))
    made = aggregate({name: scored.score for name, scored in done.items()}, partial=True)
    _write(out, {"complete": True} | record | {"aggregate": made.as_json()})
    if not keep:
        shutil.rmtree(folder)
    return made


def _read(
    result: Mapping[str, Any], job: Job, prepared: Mapping[str, Any], log: Path
) -> tuple[dict[str, Scored], str | None]:
    """What can be trusted of a result, and what is wrong with the rest."""
    problem = failure(result, job.dimensions, log)
    done: dict[str, Scored] = {}
    for name, answer in result["dimensions"].items():
        try:
            scored = Scored.of(name, answer)
            if job.mode == "custom":
                covered(name, scored, prepared["videos"])
            done[name] = scored
        except UserError as error:
            problem = problem or str(error)
    return done, problem


def _record(
    prepared: Mapping[str, Any], result: Mapping[str, Any], interpreter: Interpreter, done: Mapping[str, Scored]
) -> dict[str, Any]:
    """Who scored what, how, and with which flags."""
    short = {dim: count for dim, count in result.get("coverage", {}).items() if count["prompts"] < count["of"]}
    notes = [f"{dim}: {count['prompts']} of VBench's {count['of']} prompts" for dim, count in short.items()]
    return {
        "rollforge_vbench": __version__,
        "rollforge": rollforge_version,
        "command": sys.argv,
        "python": interpreter.python,
        "repo": str(interpreter.repo) if interpreter.repo else None,
        "environment": result.get("environment"),
        "job": prepared["job"],
        "mode": prepared["mode"],
        "keywords": result.get("keywords"),
        "notes": [*prepared["notes"], *notes],
        "scores": {name: scored.score for name, scored in done.items()},
        "per_video": {name: scored.videos for name, scored in done.items()},
        "videos": prepared["videos"],
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    """Whole or absent."""
    new = path.with_name(f".{path.name}.new")
    try:
        new.unlink(missing_ok=True)
        new.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
        new.replace(path)
    except ValueError as error:
        new.unlink(missing_ok=True)
        raise UserError(f"VBench's result for some video is not a number ({error}); see its log.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); choose another --out.") from error
