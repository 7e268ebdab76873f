"""``rollforge trajectories``: a teacher's ODE solutions, stored for ``OdeRegression``."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from rollforge import trust
from rollforge.commands.arguments import Arguments, number, path
from rollforge.commands.load import pipeline_of
from rollforge.commands.output import print_out
from rollforge.commands.parsed import ParsedCLI
from rollforge.commands.typed import read
from rollforge.comparison.identity import content_hash
from rollforge.data.requests import read_prompts
from rollforge.data.trajectories import ABOUT, trajectory_store
from rollforge.doctor.parts import build
from rollforge.errors import UserError
from rollforge.files.locking import locked
from rollforge.files.reading import MANIFEST, read_json
from rollforge.files.sharded import restricted
from rollforge.files.writing import make_folder, write_json
from rollforge.noise import IndependentNoise
from rollforge.objectives.teacher_ode import solve, solver_of
from rollforge.pipeline import Pipeline
from rollforge.ranges import Count, Positive
from rollforge.samplers import FewStep

log = logging.getLogger(__name__)


def run(arguments: list[str]) -> None:
    """Computes those that do not exist yet."""
    parser = Arguments(
        prog="rollforge trajectories",
        description="Store ODE solutions of the teacher in a config (model.backbone with the sampler Euler) for the "
        "captions of data.train_dataset, or else data.prompts. The same command continues after an interruption.",
    )
    parser.add_argument("-c", "--config", type=path, action="append", required=True, help="the teacher's YAML")
    parser.add_argument("--output_dir", type=path, required=True, help="folder of the trajectories")
    parser.add_argument("--clips", type=number(Count), default=None, help="how many (default: all)")
    parser.add_argument("--frames", type=number(Count), default=None, help="latent frames (default: the horizon)")
    parser.add_argument(
        "--history", choices=("noisy", "clean"), default="noisy",
        help="clean: the teacher is causal and sees earlier blocks of the true clip; noisy: it sees the whole clip",
    )  # fmt: skip
    parser.add_argument(
        "--timesteps", type=float, nargs="+", default=[1000, 750, 500, 250], help="the student's, before the shift"
    )
    parser.add_argument("--shift", type=number(Positive), default=5.0, help="of the student's timesteps (default 5)")
    chosen, rest = parser.parse_known_args(arguments)
    kept = FewStep(chosen.timesteps, chosen.shift).timesteps
    typed = read([*(f"--config={file}" for file in chosen.config), *rest])
    with trust.guarded(typed.modules), restricted(typed.weights_only):
        reader = ParsedCLI("predict", typed)
        pipeline = pipeline_of(reader.chosen, typed)
        clips = _clips(reader.chosen.data, chosen.history == "clean")
        count = min(len(clips), chosen.clips or len(clips))
        settings = [reader.read(typed)["data"].get("train_dataset"), chosen.history, chosen.frames, list(kept), count]
        about = {
            "identity": sha256(f"{content_hash(reader.read(typed))} {settings}".encode()).hexdigest(),
            "clips": count, "timesteps": list(kept), "history": chosen.history,
        }  # fmt: skip
        work = Work(pipeline, clips, chosen.frames, chosen.history == "clean", kept, reader.chosen.data.seed)
        store_all(work, about, Path(chosen.output_dir), min(count, reader.chosen.data.batch_size))
    print_out(f"\n{count} trajectories in:\n  {chosen.output_dir}\n")


@dataclass(frozen=True)
class Work:
    """What to solve.

    Args:
        pipeline: the teacher.
        clips: captions, and videos where the teacher is given them.
        frames: latent frames of a trajectory. Default: the teacher's horizon, or the whole blocks of the clips.
        clean: whether the teacher is given the clips.
        kept: timesteps of the states.
        seed: of the noise.
    """

    pipeline: Pipeline
    clips: Any
    frames: int | None
    clean: bool
    kept: Sequence[float]
    seed: int

    def solved(self, numbers: Sequence[int]) -> Iterator[tuple[str, torch.Tensor]]:
        """Caption and trajectory ``[S, F, C, h, w]`` of some clips."""
        pipeline, spec = self.pipeline, self.pipeline.backbone.spec
        batch = [self.clips[n] for n in numbers]
        captions = [str(clip["caption"]) for clip in batch]
        true, frames = None, self.frames or spec.horizon
        if self.clean:
            true = pipeline.encode(torch.stack([clip["video"] for clip in batch]).to(pipeline.device))
            frames = spec.whole(min(self.frames or true.shape[1], true.shape[1]))
            true = true[:, :frames]
        if not frames or spec.whole(frames) != frames:
            raise UserError(
                f"Trajectories of {frames} latent frames are not whole blocks of {spec.block}; give another --frames."
            )
        noise = [IndependentNoise().draw(self.seed, n, range(frames), 0, spec.latent_shape) for n in numbers]
        states = solve(pipeline, torch.stack(noise).to(pipeline.device), captions, self.kept, true)
        if true is not None:
            states = torch.cat([states, true[:, None]], dim=1)
        yield from zip(captions, states.float().cpu(), strict=True)


def store_all(work: Work, about: dict[str, Any], folder: Path, batch: int) -> None:
    """Solves, in groups of ``batch`` clips, those whose files are not there yet.

    Raises ``UserError`` for a folder of other trajectories.
    """
    solver_of(work.pipeline)
    make_folder(folder)
    store = trajectory_store(folder)
    with locked(folder):
        if (folder / ABOUT).is_file() and _identity(folder) != about["identity"]:
            raise UserError(
                f"{folder} holds trajectories of another teacher, data or options; choose another --output_dir, or "
                "remove it."
            )
        write_json(folder / ABOUT, about)
        names = [f"{n:08d}" for n in range(about["clips"])]
        for start in range(0, len(names), batch):
            group = range(start, min(start + batch, len(names)))
            if all(store.holds(names[n]) for n in group):
                continue
            for n, (caption, states) in zip(group, work.solved(group), strict=True):
                if not store.holds(names[n]):
                    store.write(
                        names[n], {"caption": caption},
                        {"trajectory": states, "timesteps": torch.tensor(work.kept, dtype=torch.float32)},
                    )  # fmt: skip
            log.info("%s of %s trajectories", group.stop, len(names))


def _clips(data: Any, clean: bool) -> Any:
    """Captions to solve for, with videos where there is a data set. Raises ``UserError`` where there is nothing."""
    if data.train_dataset is not None:
        return build("train_dataset", data.train_dataset)
    if clean:
        raise UserError("--history clean needs data.train_dataset, whose clips the teacher is given.")
    prompts = read_prompts(data.prompts or [])
    if not prompts:
        raise UserError("There is nothing to solve: give data.train_dataset, or data.prompts one prompt or more.")
    return [{"caption": shots[0].prompt} for shots in prompts]


def _identity(folder: Path) -> Any:
    about = read_json(folder / ABOUT, MANIFEST, "file")
    return about.get("identity") if isinstance(about, dict) else None
