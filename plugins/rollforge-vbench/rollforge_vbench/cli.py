"""The command ``rollforge-vbench``: prepare, score, aggregate. Its mistakes are one sentence and exit code 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rollforge.commands.arguments import Arguments, file, number
from rollforge.errors import UserError
from rollforge.ranges import CountFromZero, Positive
from rollforge_vbench import __version__
from rollforge_vbench.dimensions import aggregate, table
from rollforge_vbench.interpreter import Interpreter
from rollforge_vbench.job import Job
from rollforge_vbench.prepare import prepare
from rollforge_vbench.result import read_raw
from rollforge_vbench.score import score
from rollforge_vbench.sources import find


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command."""
    try:
        given = _parser().parse_args(arguments)
        sys.stdout.write(given.run(given) + "\n")
    except UserError as error:
        sys.stderr.write(f"rollforge-vbench: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("rollforge-vbench: interrupted.\n")
        return 130
    return 0


def _parser() -> Arguments:
    parser = Arguments(prog="rollforge-vbench", description="VBench scores of videos, made in another interpreter.")
    parser.add_argument("--version", action="version", version=f"rollforge-vbench {__version__}")
    commands = parser.add_subparsers(required=True, metavar="prepare|score|aggregate")
    preparing = commands.add_parser("prepare", help="copy and cut videos as VBench wants them, for a run by hand")
    preparing.add_argument("--into", type=file, required=True, help="a new folder")
    preparing.set_defaults(run=_prepare)
    scoring = commands.add_parser("score", help="prepare, run VBench, record everything")
    scoring.add_argument("--out", type=file, required=True, help="the file of scores, *.json")
    scoring.add_argument("--overwrite", action="store_true", help="replace the file of scores")
    scoring.add_argument("--keep", action="store_true", help="keep VBench's folder, <out>.work")
    scoring.add_argument("--vbench.python", dest="python", required=True, help="the python that has vbench")
    scoring.add_argument("--vbench.repo", dest="repo", type=file, help="a checkout of VBench to import from")
    scoring.add_argument("--vbench.full_info", dest="full_info", type=file, help="VBench_full_info.json")
    scoring.add_argument("--vbench.local", dest="local", action="store_true", help="checkpoints from local paths")
    scoring.add_argument("--vbench.hours", dest="hours", type=number(Positive), default=24.0, help="limit of time (24)")
    scoring.set_defaults(run=_score)
    for command in (preparing, scoring):
        _about_videos(command)
    summing = commands.add_parser("aggregate", help="the vector, quality, semantic and total of files of scores")
    summing.add_argument("files", nargs="+", type=file, help="of VBench (*_eval_results.json) or of score")
    summing.add_argument("--partial", action="store_true", help="allow missing dimensions, and say so")
    summing.set_defaults(run=_aggregate)
    return parser


def _about_videos(command: argparse.ArgumentParser) -> None:
    """What ``prepare`` and ``score`` have in common."""
    add = command.add_argument
    add("--videos", nargs="+", type=file, required=True, help="run folders of rollforge, or folders of videos")
    add("--policy", help="of a run with two policies, the one to score")
    add("--prompts", type=file, help='JSON, {"file name": "prompt"}')
    add("--dimensions", nargs="+", default=[], help="default: all that the mode has")
    add("--mode", choices=["custom", "standard"], default="custom", help="any videos, or VBench's own prompts")
    add("--long", action="store_true", help="VBench-Long")
    add("--no_long_range", action="store_true", help="VBench-Long without --dev_flag")
    add(
        "--clip_seconds",
        type=number(CountFromZero),
        default=0,
        help="length of VBench-Long's clips; default: its own",
    )
    add("--cut", action="store_true", help="cut losslessly here, not in VBench-Long")
    add("--no_static_filter", action="store_true", help="keep still videos in temporal flickering")
    add("--device", default="cuda", help="where VBench computes (cuda)")


def _job(given: argparse.Namespace) -> Job:
    return Job.asked(
        given.dimensions, given.mode, long=given.long, long_range=not given.no_long_range, cut=given.cut,
        clip_seconds=given.clip_seconds, static_filter=not given.no_static_filter, device=given.device,
    )  # fmt: skip


def _prepare(given: argparse.Namespace) -> str:
    job = _job(given)
    content = prepare(find(given.videos, given.policy, given.prompts), job, given.into)
    return f"{len(content['videos'])} videos for mode {job.vbench_mode} in {given.into / 'videos'}"


def _score(given: argparse.Namespace) -> str:
    if given.out.suffix != ".json":
        raise UserError(f"--out {given.out} should end in .json.")
    job = _job(given)
    interpreter = Interpreter(given.python, given.repo, given.full_info, given.local, given.hours)
    videos = find(given.videos, given.policy, given.prompts)
    made = score(videos, job, interpreter, given.out, given.overwrite, given.keep)
    return f"{table(made)}\n{given.out}"


def _aggregate(given: argparse.Namespace) -> str:
    return table(aggregate(read_raw(given.files), given.partial))


if __name__ == "__main__":
    raise SystemExit(main())
