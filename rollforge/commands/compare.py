"""``rollforge compare``: one config, several values of its options, the same prompts, seeds and noise for all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rollforge.commands.arguments import Arguments, path
from rollforge.commands.output import complain, say
from rollforge.comparison.vary import CONFIG, Point, points
from rollforge.errors import UserError

if TYPE_CHECKING:
    from rollforge.comparison.runs import Run

REPORT, TABLE = "report.html", "table.md"


def run(arguments: list[str]) -> int:
    """Measures each point with ``test``, and lays the figures and videos side by side; 1 where a point failed."""
    parser = Arguments(
        prog="rollforge compare",
        description="Measure a config under several values of its options. Other options go to `rollforge test`.",
    )
    parser.add_argument(
        "-c", "--config", type=path, action="append", default=[], help="the YAML to measure; later ones win"
    )
    parser.add_argument(
        "--vary",
        action="append",
        required=True,
        help="OPTION=VALUE,VALUE,... e.g. model.policy=Window,RollingSink; values may be YAML files, `config` varies "
        "whole configs; several --vary make every combination",
    )
    parser.add_argument(
        "--output_dir", type=path, default=None, help="folder of runs and report (default: outputs/<config name>)"
    )
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        help="a point, as the tables call it, e.g. Window: table.md gets the differences from it, prompt by prompt",
    )
    chosen, rest = parser.parse_known_args(arguments)
    made = points(chosen.vary)
    if chosen.against:
        from rollforge.comparison.paired import check_against

        check_against(chosen.against, [point.label for point in made])
    if not chosen.config and not any(choice.option == CONFIG for choice in made[0].choices):
        raise UserError("compare needs --config FILE, or --vary config=FILE,FILE,....")
    stem = Path(chosen.config[-1]).stem if chosen.config else "compare"
    folder = Path(chosen.output_dir or Path("outputs") / stem)
    lines = [point.line(chosen.config, rest) for point in made]
    return _compare(folder, made, lines, ["rollforge", "compare", *arguments], chosen.vary, chosen.against)


def _compare(
    folder: Path,
    made: Sequence[Point],
    lines: Sequence[list[str]],
    command: Sequence[str],
    varied: Sequence[str],
    against: Sequence[str],
) -> int:
    from rollforge.commands.resolve import resolve, seconds
    from rollforge.comparison.executor import RunExecutor
    from rollforge.comparison.identity import content_hash
    from rollforge.comparison.runs import Run, check_apart
    from rollforge.files.locking import locked
    from rollforge.files.writing import make_folder

    configs = resolve(made, lines)
    runs = [
        Run(point, config, content_hash(config), folder / "runs", line, seconds(config))
        for point, config, line in zip(made, configs, lines, strict=True)
    ]
    check_apart(runs)
    make_folder(folder)
    with locked(folder):
        work = RunExecutor(runs)
        try:
            work.all()
        except SystemExit:
            if work.asked:
                complain(f"Stopped by {work.asked.name}; the same command continues from here.\n")
            raise
        return _report(folder, runs, command, varied, against)


def _report(
    folder: Path, runs: Sequence[Run], command: Sequence[str], varied: Sequence[str], against: Sequence[str]
) -> int:
    from rollforge.comparison.page.build import build
    from rollforge.comparison.run_result import gather
    from rollforge.comparison.tables import markdown, summary
    from rollforge.files.writing import write

    failed = [run for run in runs if run.failure]
    if len(failed) < len(runs):
        comparison = gather(runs)
        write(folder / TABLE, markdown(comparison, against))
        write(folder / REPORT, build(comparison, folder, command, varied))
        say(f"\n{summary(comparison)}\n\nOpen:\n  {folder / REPORT}\n  {folder / TABLE}\n")
    for run in failed:
        complain(f"{run.point.label} failed: {run.failure} Its output is in {run.folder / 'test.log'}.\n")
    return 1 if failed else 0
