"""``predict``, ``test`` and ``fit``: LightningCLI over one YAML."""

from __future__ import annotations

import inspect
import logging
import shlex
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionYesNo
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from rollforge import trust
from rollforge.budget import BudgetCheck, MemoryCheck, MemoryInput
from rollforge.commands.addresses import check_addresses
from rollforge.commands.loopback import on_loopback
from rollforge.commands.output import print_error, print_out
from rollforge.commands.own_files import OwnFiles
from rollforge.commands.parser import Parser
from rollforge.commands.ranks import Ranks
from rollforge.commands.room import check_networks
from rollforge.commands.scoring import leave, score_config
from rollforge.commands.training import Training, check_precision
from rollforge.commands.typed import Typed, read
from rollforge.data.requests import Request
from rollforge.errors import PartError, UserError
from rollforge.evaluation.run import evaluate, sheets
from rollforge.evaluation.run_identity import RunIdentity
from rollforge.files import safe_yaml
from rollforge.files.checkpoints import read_checkpoint
from rollforge.files.sharded import restricted
from rollforge.files.writing import write
from rollforge.lightning.callbacks import isolate
from rollforge.lightning.data import RolloutData
from rollforge.lightning.module import RolloutModule, check_together
from rollforge.lightning.resuming import check_checkpoint, explain_restoring
from rollforge.lightning.video_output import VideoOutput
from rollforge.metrics.base import check_length
from rollforge.metrics.suite import DriftSuite
from rollforge.registry.construction import explained
from rollforge.report.curve import read_curve
from rollforge.report.run import RunFolder
from rollforge.signals import SignalHandler
from rollforge.snapshots.settings import Snapshots
from rollforge.snapshots.sizes import decided
from rollforge.training_budget import TrainingCheck
from rollforge.trust.nameable import PICKLES

LAST = "last"
"""As ``ckpt_path`` of ``predict``, the same as ``--resume``."""

DEFAULTS: dict[str, Any] = {"logger": False, "enable_model_summary": False, "devices": 1}
PARSERS: dict[tuple[str, type], Parser] = {}
"""That of each command and class of model, which is built once: building it takes as long as reading a config."""


class RollforgeCLI(LightningCLI):
    """LightningCLI with a run folder, which all processes of the run share and rank 0 alone prepares."""

    trains: type = RolloutModule
    """The class of the model."""
    explained: Callable[[str], AbstractContextManager[None]]
    """Around ``fit``: explains what to change if memory runs out."""

    def __init__(self, command: str, typed: Typed, ranks: Ranks, held: ExitStack) -> None:
        self.command, self.typed, self.ranks, self.held, self.code = command, typed, ranks, held, 0
        super().__init__(
            self.trains, RolloutData, run=False, args=typed.rest, parser_class=Parser, save_config_callback=None,
            subclass_mode_model=self.trains is not RolloutModule, auto_configure_optimizers=False,
            load_from_checkpoint_support=False, seed_everything_default=0,
            trainer_defaults={**DEFAULTS, "enable_progress_bar": command == "fit"},
        )  # fmt: skip

    def setup_parser(self, *arguments: Any) -> None:
        """The parser of the command: one without subcommands, which would read every config twice."""
        kind = self.command, self.trains
        if kind not in PARSERS:
            super().setup_parser(*arguments)
            PARSERS[kind] = self.parser
        self.parser: Parser = PARSERS[kind]

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """With the name of the command, and what the Trainer says of it."""
        summary = (inspect.getdoc(getattr(Trainer, self.command)) or "").partition("\n")[0]
        return super().init_parser(prog=f"rollforge {self.command}", description=summary, **kwargs)

    def parse(self, typed: Typed) -> Any:
        """The parsed config. Raises ``UserError`` for one that sets what only the command line may set."""
        config = self.parser.parse_args(typed.rest)
        if config.weights_only is False:
            raise UserError(
                "A config cannot switch weights_only off, since a checkpoint could then run code; only --weights_only "
                "false on the command line can."
            )
        if PICKLES.lower() in str(config.trainer.strategy).lower():
            raise UserError(
                "trainer.strategy cannot be DeepSpeed, whose checkpoints run code when they are read; use ddp, fsdp or "
                "ModelParallelStrategy."
            )
        check_addresses(config, typed.values)
        return config

    def parse_arguments(self, parser: Any, args: Any) -> None:
        """Reads the command line into ``config``."""
        self.config = self.parse(self.typed)

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """The Trainer, which watches the other processes. Raises ``UserError`` if it cannot be built."""
        try:
            root = {"default_root_dir": self.chosen.trainer.default_root_dir or str(self.path)}
            trainer: Any = super().instantiate_trainer(**root | kwargs)
        except (ValueError, ImportError, MisconfigurationException) as error:  # no such device, strategy or package
            raise UserError(
                f"The section trainer cannot be used on this machine: {' '.join(str(error).split())}"
            ) from error
        if self.command != "fit":
            for callback in trainer.callbacks:
                isolate(callback)
        trainer.callbacks.append(self.ranks)
        self.ranks.server = self.held.enter_context(on_loopback(trainer))
        return trainer

    def add_arguments_to_parser(self, parser: Any) -> None:
        """Options in addition to Lightning's own, and those of the Trainer's method."""
        parser.add_argument("--output_dir", type=str, default=None, help="run folder (default: outputs/<config name>)")
        parser.add_argument("--overwrite", type=bool, default=False, help="make finished videos again")
        parser.add_argument(
            "--resume", action=ActionYesNo, default=False, help="continue: fit from last.ckpt, others from snapshots"
        )
        parser.add_argument("--force", action=ActionYesNo, default=False, help="resume although something has changed")
        parser.add_class_arguments(Snapshots, "snapshots")
        parser.add_argument("--report_every", type=int, default=250, help="fit: steps between reports and checkpoints")
        parser.add_argument("--reference", type=str, default=None, help="fit: a losses.csv to draw under its losses")
        parser.options = parser.add_method_arguments(Trainer, self.command, skip=self.subcommands()[self.command])

    def _parse_ckpt_path(self) -> None:
        """Raises ``UserError`` for a checkpoint that cannot be read, or holds more than tensors and plain data.

        Its hyperparameters are left alone: they would build whatever they name.
        """
        path = str(self.config.ckpt_path or "")
        if path.startswith("registry"):
            raise UserError(f"The checkpoint {path} is on another machine; fetch it, and give the file.")
        if path and path != LAST and "://" not in path:
            check_checkpoint(path)
        if "://" in path or Path(path).is_file():
            read_checkpoint(path, "meta", self.typed.weights_only)

    @property
    def gives_videos(self) -> bool:
        """Whether ``test`` is to measure videos that are there, for which no model is built."""
        return self.command == "test" and bool(self.chosen.data.videos)

    def instantiate_classes(self) -> None:
        """Model, data and Trainer, where they are needed. Raises ``UserError`` for a model larger than the memory."""
        if not self.gives_videos:
            self.check_networks()
            whole = self.config
            if self.command != "fit":
                self.config = _for_rollouts(whole)
            with explained(self.parser):
                super().instantiate_classes()
            self.config = whole

    def check_networks(self) -> None:
        """Raises ``UserError`` for networks that would not fit into the free memory or the processes."""
        devices, nodes = self.chosen.trainer.devices, self.chosen.trainer.num_nodes
        if isinstance(devices, int) and devices > 0:  # of others the number is known when there is a Trainer
            check_together(self.command, self.chosen.model.context_parallel, devices * nodes)
        check_networks(self.chosen.model)

    def run(self) -> int:
        """Runs the command. Returns the exit code. Nothing is unpickled unless the command line says so."""
        if self.gives_videos:
            return score_config(self.chosen)
        options = {name: self.config_init[name] for name in self.parser.options}
        own = {"model": self.model, "datamodule": self.datamodule, "weights_only": self.typed.weights_only}
        getattr(self, f"before_{self.command}")()
        getattr(self, self.command)(**options | own)
        getattr(self, f"after_{self.command}")()
        return self.code

    def resolved(self, config: Any) -> dict[str, Any]:
        """A parsed config as plain data, defaults included."""
        dumped = self.parser.dump(config, skip_unset=False, skip_validation=True)
        plain: dict[str, Any] = yaml.load(dumped, safe_yaml.Loader)
        return plain

    @property
    def chosen(self) -> Any:
        """The resolved config."""
        return self.config

    @property
    def chosen_callbacks(self) -> list[Any]:
        """The callbacks that the config names."""
        named = self.config_init.trainer.callbacks or []
        return named if isinstance(named, list) else [named]

    @property
    def path(self) -> Path:
        """Of the run folder."""
        named = [Path(str(config)).stem for config in self.chosen.get("config") or []]
        return Path(self.chosen.output_dir or Path("outputs") / (named[-1] if named else "run"))

    @property
    def folder(self) -> RunFolder:
        """The run folder."""
        config = self.resolved(self.config)
        return RunFolder(self.path, config, self.chosen.overwrite, self.chosen.force, self.trainer.global_rank)

    def _prepare(self) -> None:
        """Checks all that can be checked before the first block, and opens the run folder."""
        check_together(self.command, self.chosen.model.context_parallel, self.trainer.world_size)
        if self.chosen.ckpt_path in (None, LAST):
            self.model.pipeline.check_weights()
        requests = self.model.requests(self.datamodule)
        self.model.pipeline.check_prompts(requests)
        self._check_lengths(requests)
        work = self._memory_input(requests)
        self.guard: BudgetCheck = MemoryCheck.here(work, self.trainer.num_devices)
        self.guard.check()
        check_precision(self.trainer)
        explain_restoring(self.trainer)
        self.run_folder = folder = self.folder
        folder.suite = self.datamodule.suite
        OwnFiles(folder.path).watch(self.trainer)
        resume = self.chosen.resume or self.chosen.ckpt_path == LAST
        settings = decided(self.config_init.snapshots, work, self.model.pipeline.sampler)
        self.output = VideoOutput(
            folder, self.model.pipeline, self.model.metrics, self.model.compare_policy, settings, resume,
            self.chosen.force, str(self.trainer.precision),
        )  # fmt: skip
        self.output.stop.quiet = folder.rank > 0
        self.trainer.callbacks.append(self.output)  # type: ignore[attr-defined] # Lightning adds it
        if folder.rank == 0:
            self.held.enter_context(folder.lock())
            folder.open()
            self.output.expect(requests)

    def _check_lengths(self, requests: Sequence[Request]) -> None:
        """Raises ``UserError`` for videos that would be shorter than a metric needs."""
        pipeline = self.model.pipeline
        for frames in {request.frames for request in requests}:
            seconds = pipeline.codec.pixel_frames(frames) / pipeline.fps
            check_length(self.model.metrics, seconds, "A video of this config (data.seconds)")

    def _memory_input(self, requests: Sequence[Request]) -> MemoryInput:
        device, precision = str(self.trainer.strategy.root_device), str(self.trainer.precision)
        return self.model.pipeline.memory_input(
            requests, self.datamodule.rollout_batch_size, device=device, precision=precision,
            policies=self.model.policies,
        )  # fmt: skip

    def _roll(self, run: Callable[..., Any], options: dict[str, Any]) -> None:
        """Runs rollouts. Reports the budget if memory runs out; prints the command that resumes after a signal."""
        if options.get("ckpt_path") == LAST:
            options["ckpt_path"] = None
        folder = self.run_folder
        kept = f" What was made until then is in {folder.path}, as *.partial.mp4."
        self.output.stop.install()  # Lightning's own handler swallows the signal; it comes to ours too
        with self._stoppable(self.output.stop), self.guard.explained(kept), traced(folder.path):
            run(**options)

    @contextmanager
    def _stoppable(self, stop: SignalHandler) -> Iterator[None]:
        """Around the work: prints after a signal the command that resumes."""
        try:
            yield
        except SystemExit:
            if stop.asked and self.run_folder.rank == 0:
                again = shlex.join(["rollforge", self.command, *self.typed.resumed()])
                print_error(f"Stopped by {stop.asked.name}; resume with:\n  {again}\n")
            raise
        finally:
            stop.remove()

    def before_predict(self) -> None:
        """Checks all that can be checked before the first block."""
        self._prepare()

    def predict(self, **options: Any) -> None:
        """Rolls."""
        self._roll(self.trainer.predict, options)

    def after_predict(self) -> None:
        """Prints the files to open, and a command to try next."""
        self.code = 1 if self.datamodule.unreadable else 0
        results = self.ranks.gather(self.output.results)
        if results is None:
            return
        self.output.merge(results[1:])
        made = "\n".join(f"  {path}" for path in self.output.files)
        longer = self.typed.longer(2 * self.chosen.data.seconds, f"{self.run_folder.path}-longer")
        again = shlex.join(["rollforge", self.command, *longer])
        print_out(f"\nOpen:\n{made}\n\nNext, a longer video:\n  {again}\n")

    def before_test(self) -> None:
        """Checks all that can be checked before the first block; measures drift where the config names no metric."""
        self.model.metrics = self.model.metrics or [DriftSuite()]
        self._prepare()

    def test(self, **options: Any) -> None:
        """Runs rollouts and measures them."""
        self._roll(self.trainer.test, options)

    def after_test(self) -> None:
        """Writes and prints the figures."""
        self.code = 1 if self.datamodule.unreadable else 0
        results = self.ranks.gather(self.output.results)
        if results is None:
            return
        self.output.merge(results[1:])
        folder = self.output.folder
        pipeline, requests = self.model.pipeline, self.model.requests(self.datamodule)
        evaluation = evaluate(pipeline, self.model.metrics, folder, requests)
        own = [video.entry for video in evaluation.groups.get(evaluation.policy or "", [])]
        source = f"Prompts: {self.datamodule.suite}.\nRun: {RunIdentity.of(own)}.\n\n"
        leave(evaluation, sheets(pipeline, folder, evaluation), folder.path, self.trainer.loggers, source)

    def before_fit(self) -> None:
        """Checks all that can be checked before the first step, and opens the run folder."""
        requests = self.model.requests(self.datamodule) if self.datamodule.prompts else []
        self.model.pipeline.check_prompts(requests)
        check_precision(self.trainer)
        _ = self.model.trained  # there must be one
        clips, batch = self.datamodule.training_clips, self.datamodule.batch_size
        guard = TrainingCheck.of(self.model.pipeline, self.model.recipe, self.trainer, clips, batch, requests)
        guard.check()
        self.explained = guard.explained
        self._open_training()

    def _open_training(self) -> None:
        """Prepares the run folder and finds the checkpoint to continue from."""
        self.run_folder = folder = self.folder
        own, reference = self.chosen_callbacks, self.chosen.reference and read_curve(self.chosen.reference)
        self.training = Training(self.trainer, folder.path, own, self.chosen.report_every, self.ranks, reference)
        OwnFiles(folder.path).watch(self.trainer)
        if folder.rank == 0:
            self.held.enter_context(folder.lock())
        given, resume = self.chosen.ckpt_path, self.chosen.resume
        given, resume = (None, True) if given == LAST else (given, resume)
        self.start = self.training.checkpoint(given, resume, folder.overwrite)
        if folder.rank == 0:
            folder.create()

    def fit(self, **options: Any) -> None:
        """Trains. Reports the budget and what to change if memory runs out."""
        kept = f" The checkpoints and reports until then are in {self.run_folder.path}."
        with self._stoppable(self.training.stop), self.explained(kept), traced(self.run_folder.path):
            self.training.run(**options | {"ckpt_path": self.start})

    def after_fit(self) -> None:
        """Waits for the other processes."""
        self.ranks.gather(None)


def run(name: str, arguments: list[str], kind: type[RollforgeCLI] = RollforgeCLI) -> int:
    """Runs one of the Trainer's methods; the exit code is 1 where not all of it could be done."""
    _quiet()
    ranks = Ranks()
    with ExitStack() as held:
        held.enter_context(ranks.together())
        typed = read(arguments)
        held.enter_context(trust.guarded(typed.modules))
        held.enter_context(restricted(typed.weights_only))
        try:
            return kind(name, typed, ranks, held).run()
        except SystemExit as leaving:  # how the Trainer answers an interrupt
            if isinstance(leaving.__context__, KeyboardInterrupt):
                raise leaving.__context__ from None
            raise


def _for_rollouts(config: Any) -> Any:
    """A config without what only ``fit`` needs: the networks of its objective, low-rank matrices and clips."""
    config = config.clone()
    config.model.objective = config.model.multigrid = config.model.lora = config.data.train_dataset = None
    return config


@contextmanager
def traced(folder: Path) -> Iterator[None]:
    """Writes the traceback of a component that fails to the run folder."""
    try:
        yield
    except PartError as error:
        file = folder / "traceback.txt"
        write(file, "".join(traceback.format_exception(error.__cause__)))
        raise UserError(f"{error} The traceback is in {file}.") from error


def _quiet() -> None:
    """Silences advertisements, notes on workers and retries of the hub."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
        logging.getLogger(name).propagate = False
    for module in ("lightning", "torch._weights_only_unpickler"):
        warnings.filterwarnings("ignore", module=module)
