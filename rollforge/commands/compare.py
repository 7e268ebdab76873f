"""``rollforge compare``: one config, several values of its options, the same prompts, seeds and noise for all.

With ``--fit`` each point is trained first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollforge.commands.arguments import Arguments, path
from rollforge.commands.output import print_error, print_out
from rollforge.comparison.vary import CONFIG, Point, points
from rollforge.errors import UserError

if TYPE_CHECKING:
    from rollforge.comparison.runs import Run
    from rollforge.comparison.training import TrainingRun

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
    parser.add_argument(
        "--fit", action="store_true", help="train each point first, with `rollforge fit`; then measure what came out"
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
    command = ["rollforge", "compare", *arguments]
    return _compare(folder, made, lines, command, chosen.vary, chosen.against, chosen.fit)


def _compare(
    folder: Path,
    made: Sequence[Point],
    lines: Sequence[list[str]],
    command: Sequence[str],
    varied: Sequence[str],
    against: Sequence[str],
    fit: bool,
) -> int:
    from rollforge.commands.resolve import resolve, seconds
    from rollforge.comparison.executor import RunExecutor
    from rollforge.comparison.identity import content_hash, trained_hash
    from rollforge.comparison.runs import Run, check_apart
    from rollforge.files.locking import locked
    from rollforge.files.writing import make_folder

    configs = resolve(made, lines)
    trainings = _trainings(folder, made, lines, configs) if fit else [None] * len(made)
    runs = [
        Run(
            point, config, trained_hash(config, training.hash) if training else content_hash(config), folder / "runs",
            line, seconds(config), training,
        )
        for point, config, line, training in zip(made, configs, lines, trainings, strict=True)
    ]  # fmt: skip
    check_apart(runs)
    make_folder(folder)
    with locked(folder):
        first = {training.hash: training for training in trainings if training}
        work = RunExecutor([*first.values(), *runs])
        try:
            work.all()
        except SystemExit:
            if work.asked:
                print_error(f"Stopped by {work.asked.name}; the same command continues from here.\n")
            raise
        return _report(folder, runs, command, varied, against)


def _trainings(
    folder: Path, made: Sequence[Point], lines: Sequence[list[str]], configs: Sequence[dict[str, Any]]
) -> list[TrainingRun]:
    """The training of each point; points that differ in nothing that is trained share one.

    Raises ``UserError`` for a point that cannot be trained.
    """
    from rollforge.comparison.identity import training_hash
    from rollforge.comparison.training import TrainingRun, check_training

    known: dict[str, TrainingRun] = {}
    for point, line, config in zip(made, lines, configs, strict=True):
        try:
            steps = check_training(config)
        except UserError as error:
            raise UserError(f"The point {point.named} cannot be trained: {error}") from error
        key = training_hash(config)
        known.setdefault(key, TrainingRun(point, config, key, folder / "trainings", line, steps))
    return [known[training_hash(config)] for config in configs]


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
        write(folder / REPORT, build(comparison, folder, command, varied, against))
        print_out(f"\n{summary(comparison, against)}\n\nOpen:\n  {folder / REPORT}\n  {folder / TABLE}\n")
    for run in failed:
        print_error(f"{run.point.label} failed: {run.failure} Its output is in {_log(run)}.\n")
    return 1 if failed else 0


def _log(run: Run) -> Path:
    """The output of the command that failed."""
    failed = run.training if run.training and run.training.failure else run
    return failed.folder / failed.log
