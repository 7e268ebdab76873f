"""``rollforge test --data.videos FOLDER``: measures videos that are there already, from any tool."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, get_type_hints

from rollforge.commands.arguments import Arguments, number, path
from rollforge.commands.output import print_error, print_out
from rollforge.errors import UserError, nearest
from rollforge.evaluation.evaluation import Evaluation
from rollforge.evaluation.video_folder import VideoFolder
from rollforge.files.writing import make_folder, write_json
from rollforge.metrics.base import Metric
from rollforge.metrics.suite import DriftSuite
from rollforge.ranges import Positive
from rollforge.registry import registry
from rollforge.registry.construction import explained
from rollforge.video.sheet import ContactSheet

OPTION = "--data.videos"


def run(arguments: list[str]) -> int | None:
    """Measures a folder without a config. The exit code is 1 if a video could not be measured.

    Returns None where a config is named, or no videos: the command line is then one of ``RollforgeCLI``.
    """
    about = "Measure the videos of a folder. With --config, metrics and horizon are those of the config."
    sorting = Arguments(prog="rollforge test", add_help=False)
    sorting.add_argument(OPTION, nargs="?")
    sorting.add_argument("-c", "--config", nargs="?")
    found = sorting.parse_known_args(arguments)[0]
    if vars(found)[OPTION.lstrip("-")] is None or found.config is not None:
        return None
    parser = Arguments(prog="rollforge test", description=about)
    parser.add_argument(OPTION, dest="videos", type=path, required=True, help="folder of videos")
    parser.add_argument("--metrics", action="append", help="a metric by name, may be repeated (default: DriftSuite)")
    parser.add_argument(
        "--horizon_seconds", type=number(Positive), default=5.0, help="of clips, and of windows at marks"
    )
    parser.add_argument("--output_dir", type=path, default=None, help="default: outputs/<folder>-measured")
    chosen = parser.parse_args(arguments)
    metrics = [_metric(name) for name in chosen.metrics or ["DriftSuite"]]
    return score(VideoFolder(Path(chosen.videos), chosen.horizon_seconds), metrics, chosen.output_dir)


def score_config(chosen: Any) -> int:
    """Measures ``data.videos`` of a config: with its metrics, and at multiples of its model's horizon.

    No weights are loaded: of the model only the shapes are built, and they only for the horizon and the size.
    """
    from lightning.pytorch import Trainer

    from rollforge.doctor.parts import blueprint, build, sizes_in_files

    metrics, given = build("metrics", chosen.model.metrics), VideoFolder(Path(chosen.data.videos))
    with suppress(Exception):  # whatever hinders it: then five seconds stand for the horizon
        backbone = blueprint("backbone", chosen.model.backbone, sizes_in_files(chosen.model.backbone))
        spec, codec = backbone.spec, blueprint("codec", chosen.model.codec)
        fps = spec.fps * (codec.pixel_frames(2) - codec.pixel_frames(1))
        given.horizon_seconds = codec.pixel_frames(spec.horizon) / fps
        given.size = codec.pixel_size(spec.width, spec.height)
    trainer = Trainer(
        logger=_built(chosen.trainer.logger), default_root_dir=chosen.trainer.default_root_dir, accelerator="cpu",
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    return score(given, metrics, chosen.output_dir, trainer.loggers)


def score(given: VideoFolder, metrics: Sequence[Metric], output_dir: str | None, loggers: Iterable[Any] = ()) -> int:
    """Measures existing videos and prints the files to open."""
    out = Path(output_dir or Path("outputs") / f"{given.folder.resolve().name or 'videos'}-measured")
    evaluation = given.score(metrics or [DriftSuite()], out, lambda message: print_error(f"rollforge: {message}\n"))
    leave(evaluation, given.sheets, out, loggers)
    return 1 if given.unreadable else 0


def leave(
    evaluation: Evaluation, sheets: Sequence[ContactSheet], out: Path, loggers: Iterable[Any] = (), source: str = ""
) -> None:
    """Writes figures, plots and sheets, hands the curves to the loggers, and prints the tables below ``source``."""
    from rollforge.evaluation.loggers import log_to
    from rollforge.evaluation.pictures import draw_all  # brings matplotlib, which nothing before needs

    make_folder(out)
    made = draw_all(evaluation, sheets, out)
    write_json(out / "metrics.json", evaluation.document())
    log_to(loggers, evaluation)
    for metric, message in evaluation.failed.items():
        print_error(f"rollforge: the metric {metric} raised {message}; from there on it is left out.\n")
    files = "\n".join(f"  {path}" for path in [*made, out / "metrics.json"])
    print_out(f"\n{source}{evaluation.table()}\n\nOpen:\n{files}\n")


def _built(logger: Any) -> Any:
    """The logger that a config names, or several."""
    from jsonargparse import ArgumentParser, Namespace
    from lightning.pytorch import Trainer

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--part", type=get_type_hints(Trainer.__init__)["logger"])
    with explained(parser):
        return parser.instantiate(Namespace(part=logger)).part


def _metric(name: str) -> Metric:
    known = {part.name: part for part in registry().of("metric")}
    if name not in known:
        raise UserError(f"There is no metric called {name!r}.{nearest(name, known)} See: rollforge plugins.")
    registry().require(name)
    try:
        metric: Metric = known[name].load()()
    except TypeError as error:
        raise UserError(f"The metric {name} needs arguments ({error}); name it in a --config.") from error
    return metric
