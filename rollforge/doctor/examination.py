"""The checks in their order: what is cheap first, and the model itself only if there is room for it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from rollforge.backbones.wan.sizes import shown
from rollforge.budget import Budget, Guard, readable
from rollforge.budget.free import free_memory
from rollforge.budget.work import size_of
from rollforge.data.module import RolloutData
from rollforge.data.requests import Request
from rollforge.doctor import machine, parts
from rollforge.doctor.finding import Findings
from rollforge.doctor.probe import Probe, duration, probe
from rollforge.memory import Plain, Rope
from rollforge.module import RolloutModule
from rollforge.report.recording import SMALL
from rollforge.report.run import RunFolder

DEVICE_KEYS = ("accelerator", "devices", "strategy", "precision", "num_nodes")
PLAIN = ("policy", "beside", "sampler", "rope", "kv_codec")  # a mistake in these is one of the config alone
FROM_FILES = ("codec", "noise", "metrics")
GUESS = 0.25  # bytes of a pixel in the mp4


class Examination:
    """One config under examination.

    Args:
        config: the resolved config of ``predict``.
        folder: its run folder, which is not touched.
        findings: where to put what is found.
        seconds: how long to roll for the estimate of the time; 0 for not at all.

    Raises:
        UserError: for a mistake in the config itself.
    """

    def __init__(self, config: Any, folder: RunFolder, findings: Findings, seconds: float) -> None:
        self.config, self.folder, self.findings, self.seconds = config, folder, findings, seconds
        self.parts = {name: parts.build(name, config.model.get(name)) for name in PLAIN}
        self.data = RolloutData(**(vars(config.data) | {"clips": None}))
        self.requests: Sequence[Request] = ()
        self.shapes: dict[str, Any] = {}  # backbone and codec, without weights where they could not be loaded
        self.fits, self.there = True, Path()
        self.probed: Probe | None = None

    def run(self) -> None:
        """All checks."""
        machine.versions(self.findings, parts.class_paths(self.config.model))
        machine.plugins(self.findings)
        self._device()
        for name in FROM_FILES:
            self._part(name)
        self._network()
        self._codec_shapes()
        self._prompts()
        self._conditioner()
        self._memory()
        self._load()
        with self.findings.problem_at("encoder"):
            machine.encoder(self.findings, self.size)
        with self.findings.problem_at("output"):
            self.there = machine.output_folder(self.findings, self.folder)
        self._time()
        with self.findings.problem_at("disk"):
            self._disk()

    @cached_property
    def trainer(self) -> Any:
        """A Trainer on the devices of the config; on the CPU where there are no such devices."""
        chosen = {key: self.config.trainer[key] for key in DEVICE_KEYS}
        quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        try:
            return Trainer(**chosen, **quiet, enable_model_summary=False)
        except (MisconfigurationException, ValueError, RuntimeError) as error:
            first = str(error).strip().splitlines()[0]
            self.findings.add("problem", "device", f"The trainer cannot use {chosen['accelerator']!r} here ({first})")
            return Trainer(accelerator="cpu", devices=1, **quiet, enable_model_summary=False)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the mp4 in pixels, as far as they are known."""
        if not {"codec", "backbone"} <= self.shapes.keys():
            return SMALL, SMALL
        spec = self.shapes["backbone"].spec
        width, height = self.shapes["codec"].pixel_size(spec.width, spec.height)
        scale = max(1, SMALL // min(width, height))
        return width * scale, height * scale

    def _device(self) -> None:
        before, device = self.findings.problems, self.trainer.strategy.root_device
        if self.findings.problems > before:
            return
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
        free = free_memory(str(device))
        room = "free memory unknown" if free is None else f"{readable(free)} of memory free"
        told = f"{self.trainer.num_devices} x {device.type} ({name}), {room}, precision {self.trainer.precision}."
        self.findings.add("ok", "device", told)

    def _part(self, name: str) -> None:
        config = self.config.model.get(name)
        if config is None:
            return
        with self.findings.problem_at(name):
            self.parts[name] = parts.build(name, config)
            if not isinstance(config, Namespace):
                return
            verdict, told = parts.standing(config, self.config.ckpt_path)
            self.findings.add(verdict, name, told)

    def _network(self) -> None:
        """Opens the weights of the network without reading them; a network without weights stands in for it."""
        config, sizes = self.config.model.backbone, None
        with self.findings.problem_at("backbone"):
            checkpoint = parts.opened(config)
            sizes = shown(checkpoint.tensors) if checkpoint else {}
            if checkpoint:
                verdict, told = parts.attention(checkpoint)
                self.findings.add(verdict, "backbone", told)
        before = self.findings.problems
        with self.findings.problem_at("backbone"):
            self.shapes["backbone"] = parts.blueprint("backbone", config, sizes)
        self.network_opens = sizes is not None and self.findings.problems == before

    def _codec_shapes(self) -> None:
        """A codec without weights stands in for one that could not be loaded."""
        if codec := self.parts.get("codec"):
            self.shapes["codec"] = codec
            return
        with suppress(Exception):  # why it fails has been said
            self.shapes["codec"] = parts.blueprint("codec", self.config.model.codec)

    def _prompts(self) -> None:
        with self.findings.problem_at("prompts"):
            network, codec = self.shapes.get("backbone"), self.shapes.get("codec")
            pictures = codec.pixel_frames(2) - codec.pixel_frames(1) if codec else 1
            self.requests = self.data.requests(network.spec.fps if network else 1.0, pictures)
            count = len(self.requests)
            told = f"{count} video{'s' if count > 1 else ''} of {self.data.seconds:g} s."
            self.findings.add("ok", "prompts", told)

    def _conditioner(self) -> None:
        config = self.config.model.conditioner
        with self.findings.problem_at("conditioner"):
            conditioner = parts.build("conditioner", config)
            conditioner.check(sorted({text for request in self.requests for text in request.prompts.values()}))
            self.parts["conditioner"] = conditioner
            self.findings.add("ok", "conditioner", parts.standing(config, None)[1])

    def _memory(self) -> None:
        if not (self.requests and {"codec", "backbone"} <= self.shapes.keys()):
            return
        given = {"beside": None, "rope": None, "kv_codec": None} | self.parts
        module: Any = SimpleNamespace(**given | self.shapes | {"rope": given["rope"] or Rope()})
        batches = {"memory": 1}
        if self.parts.get("metrics") and self.data.rollout_batch > 1:
            batches["memory, test"] = self.data.rollout_batch
        for subject, batch in batches.items():
            with self.findings.problem_at(subject):
                self._budget(subject, Guard.of(module, self.trainer, self.requests, batch))

    def _budget(self, subject: str, guard: Guard) -> None:
        budget: Budget = guard.budget
        if budget.fits:
            self.findings.add("ok", subject, "There is room for what a rollout holds.", budget.table())
            return
        self.fits = False
        self.findings.add("problem", subject, f"A rollout does not fit. {guard.advice()}", budget.table())

    def _load(self) -> None:
        """Loads the network for good, where it opens and there is room."""
        shapes, free = self.shapes.get("backbone"), free_memory("cpu")
        if shapes is None or not self.network_opens:
            return
        if free is not None and size_of(shapes) > free:
            self.findings.add("problem", "backbone", "The weights do not fit into the memory of the CPU to be loaded.")
            return
        with self.findings.problem_at("backbone"):
            config = self.config.model.backbone
            self.parts["backbone"] = backbone = parts.build("backbone", config)
            verdict, told = parts.standing(config, self.config.ckpt_path)
            self.findings.add(verdict, "backbone", f"{told} {parts.described(backbone)}")

    def _time(self) -> None:
        if not self.seconds:
            return
        whole = all(self.parts.get(name) for name in ("backbone", "codec", "conditioner", "sampler", "policy"))
        if not (whole and self.fits and self.requests):
            self.findings.add("warning", "time", "Not measured, since something above keeps the model from rolling.")
            return
        with self.findings.problem_at("time"):
            self.probed = self._probe()
            self._tell_time(self.probed)

    def _probe(self) -> Probe:
        known = {name: part for name, part in self.parts.items() if part is not None}
        module = RolloutModule(**known, negative=self.config.model.negative)
        module.kv_codec = module.kv_codec or Plain()
        guard = Guard.of(module, self.trainer, self.requests)
        module.setup("predict")
        module = self.trainer.precision_plugin.convert_module(module)
        with guard.explained(), self.trainer.precision_plugin.forward_context():
            return probe(module.to(self.trainer.strategy.root_device).eval(), self.requests[0], self.seconds)

    def _tell_time(self, probed: Probe) -> None:
        videos, policies = len(self.requests), 2 if self.parts.get("beside") else 1
        whole = probed.start + policies * sum(probed.seconds(request.frames) for request in self.requests)
        of = f"{videos} video{'s' if videos > 1 else ''} of {self.data.seconds:g} s"
        if policies > 1:
            of += " under each of 2 policies"
        told = f"About {duration(whole)} for {of} on one device, by {len(probed.passes)} forward passes"
        if probed.beside is None:
            self.findings.add("warning", "time", f"{told}; no block was finished, so decoding is not in it.")
        else:
            self.findings.add("ok", "time", f"{told} and {probed.blocks} decoded blocks.")

    def _disk(self) -> None:
        width, height = self.size
        codec, measured = self.shapes.get("codec"), self.probed is not None and self.probed.frame_bytes is not None
        frame = self.probed.frame_bytes if self.probed and self.probed.frame_bytes else GUESS * width * height
        files = 4 if self.parts.get("beside") else 1  # two videos, and both beside each other
        count = sum(codec.pixel_frames(request.frames) if codec else request.frames for request in self.requests)
        machine.disk(self.findings, self.there, round(files * count * frame), measured)
