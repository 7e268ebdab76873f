"""The checks in their order: cheap ones first, and the model itself only if there is memory for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from rollforge.budget import Budget, BudgetCheck, MemoryCheck, readable
from rollforge.budget.free import free_memory
from rollforge.budget.memory_input import size_of
from rollforge.data.pictures import is_picture
from rollforge.data.requests import Request
from rollforge.data.video_requests import make_requests
from rollforge.doctor import estimates, machine, parts
from rollforge.doctor.finding import Findings, Status
from rollforge.doctor.half import half_precision
from rollforge.doctor.parts import NEEDED, OPTIONAL
from rollforge.doctor.probe import Probe, probe
from rollforge.doctor.training_memory import training_check
from rollforge.finish.base import finished_size
from rollforge.pipeline import Pipeline
from rollforge.pipeline.video_rollout import doubt_of
from rollforge.report.run import RunFolder
from rollforge.snapshots.settings import Snapshots
from rollforge.snapshots.sizes import decided
from rollforge.video.writer import SMALL, enlargement

DEVICE_KEYS = ("accelerator", "devices", "strategy", "precision", "num_nodes", "accumulate_grad_batches")
PLAIN = ("policy", "compare_policy", "sampler", "positions", "kv_codec", "combine", "attention")
"""Components whose errors are those of the config alone."""


class ConfigChecks:
    """One config under examination.

    Args:
        config: the resolved config of ``predict``.
        folder: its run folder, which is not touched.
        findings: where to put what is found.
        seconds: how long to roll for the estimate of the time; 0 for not at all.
        card: bytes free on a CUDA card that is not here, for which memory alone is computed; unset for this machine.

    Raises:
        UserError: for an error in the config itself.
    """

    def __init__(
        self, config: Any, folder: RunFolder, findings: Findings, seconds: float, card: int | None = None
    ) -> None:
        self.config, self.folder, self.findings, self.seconds = config, folder, findings, seconds
        self.card = card
        self.absent: Status = "problem" if card is None else "warning"  # files need not be where no card is
        self.parts = {name: parts.build(name, config.model.get(name)) for name in PLAIN}
        self.data = config.data
        self.training = config.model.objective is not None and config.data.train_dataset is not None
        self.requests: Sequence[Request] = ()
        self.shapes: dict[str, Any] = {}  # backbone, codec and conditioner, without weights where they cannot be loaded
        self.assumed = ""  # what the sizes of the network rest on, where its weights do not tell them
        self.guard: MemoryCheck | None = None
        self.fits, self.there = True, Path()
        self.probed: Probe | None = None

    def run(self) -> None:
        """All checks."""
        steps: list[tuple[str, Callable[[], None]]] = [
            ("versions", self._versions),
            ("plugins", self._plugins),
            ("device", self._device),
            ("noise", partial(self._part, "noise")),
            ("metrics", partial(self._part, "metrics")),
            ("codec", self._codec),
            ("finish", partial(self._part, "finish")),
            ("backbone", self._network),
            ("prompts", self._prompts),
            ("opening", self._opening),
            ("conditioner", self._conditioner),
            ("memory", self._memory),
            ("training", self._training_memory),
            ("backbone", self._load),
            *([] if self.card is not None else self._here),
            ("disk", self._disk),
        ]
        for subject, step in steps:
            with self.findings.problem_at(subject, self.absent):
                step()

    @property
    def _here(self) -> list[tuple[str, Callable[[], None]]]:
        """Checks of this machine and of nothing else."""
        return [("encoder", self._encoder), ("output", self._output), ("time", self._time)]

    @cached_property
    def trainer(self) -> Any:
        """A Trainer on the devices of the config; on the CPU where there are no such devices."""
        chosen = {key: self.config.trainer[key] for key in DEVICE_KEYS}
        quiet: dict[str, Any] = {
            "logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
        }  # fmt: skip
        on_cpu: dict[str, Any] = {"accelerator": "cpu", "devices": 1}
        if self.card is not None:
            kept = ("precision", "accumulate_grad_batches")
            return Trainer(**on_cpu, **{key: chosen[key] for key in kept}, **quiet)
        try:
            return Trainer(**chosen, **quiet)
        except (MisconfigurationException, ValueError, RuntimeError) as error:
            first = str(error).strip().splitlines()[0]
            self.findings.add("problem", "device", f"The trainer cannot use {chosen['accelerator']!r} here ({first})")
            return Trainer(**on_cpu, **quiet)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the mp4 in pixels, as far as they are known."""
        if not {"codec", "backbone"} <= self.shapes.keys():
            return SMALL, SMALL
        spec = self.shapes["backbone"].spec
        width, height = self.shapes["codec"].pixel_size(spec.width, spec.height)
        if finish := self.parts.get("finish"):
            width, height = finished_size(finish, (width, height))
        scale = enlargement((width, height))
        return width * scale, height * scale

    def _versions(self) -> None:
        machine.versions(self.findings, parts.class_paths(self.config.model))

    def _plugins(self) -> None:
        machine.plugins(self.findings)

    def _device(self) -> None:
        if self.card is not None:
            text = (
                f"A CUDA card that leaves {readable(self.card)}, precision {self.trainer.precision}; nothing is rolled."
            )
            self.findings.add("ok", "device", text)
            return
        before, device = self.findings.problems, self.trainer.strategy.root_device
        if self.findings.problems > before:
            return
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
        free = free_memory(str(device))
        available = "free memory unknown" if free is None else f"{readable(free)} of memory free"
        text = f"{self.trainer.num_devices} x {device.type} ({name}), {available}, precision {self.trainer.precision}."
        self.findings.add("ok", "device", text)

    def _part(self, name: str) -> None:
        config = self.config.model.get(name)
        if config is None:
            return
        with self.findings.problem_at(name):
            self.parts[name] = parts.build(name, config)
            if isinstance(config, Namespace):
                self.findings.add(*parts.weights_status(name, config, self.config.ckpt_path, self.training))

    def _codec(self) -> None:
        """Loads the codec where there is memory for it; one without weights replaces one that is not loaded."""
        config = self.config.model.codec
        with self.findings.problem_at("codec"):
            self.shapes["codec"] = parts.blueprint("codec", config)
        if self.card is not None:
            self.findings.add(*parts.weights_status("codec", config, self.config.ckpt_path, self.training))
        elif self._loadable("codec"):
            self._part("codec")
            self.shapes |= {"codec": codec} if (codec := self.parts.get("codec")) else {}

    def _network(self) -> None:
        """Opens the weights of the network without reading them; a network without weights replaces it."""
        config, sizes = self.config.model.backbone, None
        with self.findings.problem_at("backbone", self.absent):
            checkpoint = parts.opened(config)
            sizes = parts.sizes_in_files(config)
            if checkpoint:
                status, text = parts.attention(checkpoint)
                self.findings.add(status, "backbone", text)
        before = self.findings.problems
        with self.findings.problem_at("backbone"):
            self.shapes["backbone"] = parts.blueprint("backbone", config, sizes, cuda=self.card is not None)
        self.assumed = parts.assumption(config) if sizes is None else ""
        self.network_opens = sizes is not None and self.findings.problems == before

    def _prompts(self) -> None:
        if self.training and not self.data.prompts:
            self.findings.add("warning", "prompts", "There are none: fit trains without samples; predict needs one.")
            return
        network, codec = self.shapes.get("backbone"), self.shapes.get("codec")
        pictures = codec.pixel_frames(2) - codec.pixel_frames(1) if codec else 1
        data, fps = self.data, network.spec.fps if network else 1.0
        self.requests = make_requests(
            data.prompts, data.seconds, fps, pictures, seed=data.seed, seeds=data.seeds,
            first_prompts=data.first_prompts, opening=data.opening, opening_seconds=data.opening_seconds,
        )  # fmt: skip
        count = len(self.requests)
        self.findings.add("ok", "prompts", f"{count} video{'s' if count > 1 else ''} of {self.data.seconds:g} s.")

    def _opening(self) -> None:
        """Warnings about videos that start from an image, which is one latent frame."""
        network = self.shapes.get("backbone")
        pictures = any(request.opening and is_picture(request.opening) for request in self.requests)
        if network and pictures and (doubt := doubt_of(1, network.spec)):
            self.findings.add("warning", "opening", doubt)

    def _conditioner(self) -> None:
        config = self.config.model.conditioner
        conditioner = parts.build("conditioner", parts.placed_anywhere(config) if self.card is not None else config)
        self.shapes["conditioner"] = conditioner
        conditioner.check(sorted({text for request in self.requests for text in request.prompts.values()}))
        self.parts["conditioner"] = conditioner
        self.findings.add(*parts.weights_status("conditioner", config, None))

    def _memory(self) -> None:
        if self.training and not self.data.prompts:
            return
        if not (self.requests and {"codec", "backbone"} <= self.shapes.keys()):
            self.findings.add("warning", "memory", "Not computed, since the sizes of the model are not known.")
            return
        pipeline = self._pipeline({"conditioner": None} | self.parts | self.shapes)
        self.guard = self._guard(pipeline, 1)
        self.fits = self._budget("memory", self.guard, "A rollout")
        if self.parts.get("metrics") and self.data.rollout_batch_size > 1:
            self.fits &= self._budget("memory, test", self._guard(pipeline, self.data.rollout_batch_size), "A rollout")

    def _training_memory(self) -> None:
        if self.training and {"codec", "backbone", "conditioner"} <= self.shapes.keys():
            pipeline = self._pipeline(self.parts | self.shapes)
            check = training_check(self.config, pipeline, self.trainer, self.requests, self.card)
            self._budget("training", check, "Training")

    def _pipeline(self, given: Mapping[str, Any]) -> Pipeline:
        """A pipeline of components, some of which may have no weights."""
        optional = {name: given[name] for name in OPTIONAL if given.get(name) is not None}
        needed: dict[str, Any] = {name: given[name] for name in NEEDED}
        return Pipeline(
            **needed,
            **optional,
            negative_prompt=self.config.model.negative_prompt,
            context_parallel=self.config.model.context_parallel,
            fuse_commit=self.config.model.fuse_commit,
        )

    def _guard(self, pipeline: Pipeline, batch: int) -> MemoryCheck:
        keys = {f"model.{name}": self.parts.get(name) for name in ("policy", "compare_policy")}
        device = str(self.trainer.strategy.root_device) if self.card is None else "cuda:0"
        work = pipeline.memory_input(
            self.requests, batch, device=device, precision=str(self.trainer.precision),
            policies={key: policy for key, policy in keys.items() if policy},
        )  # fmt: skip
        if self.card is not None:
            return MemoryCheck.on_card(work, self.card)
        return MemoryCheck.here(work, self.trainer.num_devices)

    def _budget(self, subject: str, guard: BudgetCheck, what: str) -> bool:
        """Whether it fits."""
        budget: Budget = guard.budget
        if budget.fits:
            self.findings.add("ok", subject, f"{what} fits into memory{self.assumed}.", budget.table())
        else:
            text = f"{what} does not fit{self.assumed}. {guard.advice()}"
            self.findings.add("problem", subject, text, budget.table())
        return budget.fits

    def _loadable(self, name: str) -> bool:
        """Whether the CPU has memory to load the weights of a component."""
        shapes, free = self.shapes.get(name), free_memory("cpu")
        if shapes is None or free is None or (size := size_of(shapes)) <= free:
            return shapes is not None
        text = f"The weights take {readable(size)} of the CPU's memory to be loaded; {readable(free)} are free."
        self.findings.add("problem", name, text)
        return False

    def _load(self) -> None:
        """Loads the network for good, where it opens and there is memory for it."""
        if self.card is not None or not self.network_opens or not self._loadable("backbone"):
            return
        config = self.config.model.backbone
        self.parts["backbone"] = backbone = parts.build("backbone", config)
        status, name, text = parts.weights_status("backbone", config, self.config.ckpt_path, self.training)
        self.findings.add(status, name, f"{text} {parts.described(backbone)}")

    def _encoder(self) -> None:
        machine.encoder(self.findings, self.size)

    def _output(self) -> None:
        self.there = machine.output_folder(self.findings, self.folder)

    def _time(self) -> None:
        if not self.seconds:
            return
        complete = all(self.parts.get(name) for name in ("backbone", "codec", "conditioner", "sampler", "policy"))
        if not (complete and self.fits and self.requests):
            self.findings.add("warning", "time", "Not measured, since something above keeps the model from rolling.")
            return
        self.probed = self._probe()
        text = estimates.time_needed(
            self.probed, self.requests, self.data.seconds, 2 if self.parts.get("compare_policy") else 1
        )
        if self.probed.extra is None:
            self.findings.add("warning", "time", f"{text}; no block was finished, so decoding is not in it.")
        else:
            self.findings.add("ok", "time", f"{text} and {self.probed.blocks} decoded blocks.")
        if self.trainer.strategy.root_device.type == "cpu" and str(self.trainer.precision) == "32-true":
            half_precision(self.findings, self.parts["backbone"])

    def _probe(self) -> Probe:
        pipeline = self._pipeline(self.parts)
        with self._guard(pipeline, 1).explained():
            pipeline.to(self.trainer.strategy.root_device, str(self.trainer.precision)).eval()
            return probe(pipeline, self.requests[0], self.seconds)

    def _disk(self) -> None:
        if not self.requests:
            return
        measured = self.probed is not None and self.probed.frame_bytes is not None
        files = 4 if self.parts.get("compare_policy") else 1  # two videos, and both side by side
        videos = files * estimates.video_bytes(self.requests, self.shapes.get("codec"), self.size, self.probed)
        kept = 0
        if self.guard is not None:
            settings = decided(Snapshots(**vars(self.config.snapshots)), self.guard.work, self.parts["sampler"])
            kept = self.trainer.num_devices * estimates.kept_bytes(
                self.guard.work, settings, self.requests, self.probed
            )
        machine.disk(self.findings, None if self.card is not None else self.there, videos, kept, measured)
