"""Parts of a config, built one by one, so that one that fails does not hide the others."""

from __future__ import annotations

from importlib import import_module
from typing import Any, get_type_hints

import torch
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.cli import OptimizerCallable
from torch.utils.data import Dataset

from rollforge.backbones.base import Backbone
from rollforge.backbones.low_rank import LowRank
from rollforge.backbones.wan.checkpoint import Checkpoint, open_checkpoint
from rollforge.backbones.wan.network import Wan
from rollforge.backbones.weights import RANDOM
from rollforge.budget.live import Live
from rollforge.budget.memory_input import size_of
from rollforge.budget.table import readable
from rollforge.doctor.finding import Status
from rollforge.metrics.base import Metric
from rollforge.objectives import Objective
from rollforge.pipeline import Pipeline
from rollforge.policies.base import CachePolicy
from rollforge.registry.construction import explained

SIZES = ("dim", "layers", "ffn_dim")


NEEDED = ("backbone", "conditioner", "codec", "policy", "sampler")
"""The components that every pipeline has."""
OPTIONAL = ("noise", "positions", "kv_codec", "block_check", "memory", "combine", "attention", "finish")
"""Those that have a default."""
TYPES: dict[str, Any] = {
    **get_type_hints(Pipeline),
    "compare_policy": CachePolicy,
    "metrics": list[Metric],
    "objective": Objective,
    "lora": LowRank | None,
    "optimizer": OptimizerCallable,
    "train_dataset": Dataset,
}
"""What the sections ``model`` and ``data`` hold, by key."""


def build(name: str, config: Any) -> Any:
    """What a config names under the key ``name``, parsed or plain; None where there is nothing.

    Raises ``UserError`` for one that cannot be built, whatever it raises.
    """
    if config is None:
        return None
    return built(TYPES[name], config)


def built(kind: Any, config: Any) -> Any:
    """What a config names, of a type. Raises ``UserError`` as ``build``."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--part", type=kind)
    parsed = Namespace(part=config) if isinstance(config, Namespace) else parser.parse_object({"part": config})
    with explained(parser):
        return parser.instantiate(parsed).part


def class_paths(model: Any) -> list[str]:
    """The classes that the ``model`` of a config names."""
    return [part.class_path for part in vars(model).values() if isinstance(part, Namespace) and "class_path" in part]


def weights_named(config: Any) -> str | None:
    """What the config of a part says of its weights."""
    named: str | None = config.get("init_args", Namespace()).get("weights")
    return named


def blueprint(
    name: str, config: Any, sizes: dict[str, Any] | None = None, limit: int | None = None, cuda: bool = False
) -> Any:
    """A backbone or codec on the meta device, without its weights.

    Args:
        name: its key.
        config: of the component.
        sizes: where the config leaves them out.
        limit: bytes of weights at which building it stops with ``Full``.
        cuda: whether an ``auto`` dtype is that on a CUDA card, which need not be here.
    """
    changed = config.clone()
    arguments = changed.get("init_args", Namespace())
    for key, value in (sizes or {}).items():
        if key in arguments and arguments[key] is None:
            arguments[key] = value
    if "weights" in arguments:
        if cuda and name == "backbone" and arguments.weights and arguments.get("dtype") == "auto":
            arguments.dtype = "bf16"
        arguments.weights = RANDOM if arguments.weights and name == "backbone" else None
    if "lora" in arguments:
        arguments.lora = None
    device = arguments.get("device", "auto")
    if "device" in arguments:
        arguments.device = "auto"
    with torch.device("meta"), Live(limit=limit):
        part = build(name, changed)
    if device != "auto":
        part.fixed = torch.device(device)
    return part


def opened(config: Any) -> Checkpoint | None:
    """The weights of a Wan network, opened and not read; None for other networks and for random weights."""
    weights = weights_named(config)
    if _class_of(config) is not Wan or weights in (None, RANDOM):
        return None
    return open_checkpoint(str(weights), "Wan", config.init_args.ema)


def sizes_in_files(config: Any) -> dict[str, Any]:
    """The arguments of a backbone that its files decide, where the config leaves them out."""
    backbone: type[Backbone] = _class_of(config)
    return backbone.sizes_in_files(vars(config.get("init_args", Namespace())))


def trained_by(objective: Any) -> str:
    """The component that the config of an objective trains, without building its networks."""
    return str(_class_of(objective).trains)


def _class_of(config: Any) -> Any:
    module, _, name = config.class_path.rpartition(".")
    return getattr(import_module(module), name)


def attention(checkpoint: Checkpoint) -> tuple[Status, str]:
    """Whether a network attends to the past only, as a rollout needs, by what names and keys say of its weights."""
    kind, evidence = checkpoint.origin.attention, checkpoint.origin.evidence
    if kind == "causal":
        return "ok", f"The weights are causal, by {evidence}."
    if kind == "bidirectional":
        return "problem", (
            f"The weights are those of a bidirectional model, by {evidence}; a rollout needs causal ones such as "
            "gdhe17/Self-Forcing:checkpoints/self_forcing_dmd.pt, or `rollforge fit` makes them causal."
        )
    return "unknown", (
        f"Whether {checkpoint.file.name} is causal cannot be told: {evidence} say so. A bidirectional model runs, and "
        "its video is of no use."
    )


def weights_status(part: str, config: Any, checkpoint: str | None, trained: bool = False) -> tuple[Status, str, str]:
    """A component and where its weights come from, as a finding.

    Random weights are a warning if they are asked for or to be ``trained``; else ``predict`` refuses them.
    """
    name, weights = config.class_path.rpartition(".")[2], weights_named(config)
    if weights == RANDOM:
        return "warning", part, f"{name} has random weights, as asked for: the video will be noise."
    if weights or "weights" not in config.get("init_args", Namespace()):
        return "ok", part, f"{name} from {weights}." if weights else f"{name}."
    if checkpoint:
        return "warning", part, f"{name} is to get its weights from {checkpoint}, which is not opened here."
    if trained:
        return "warning", part, f"{name} has random weights, for fit to train; predict refuses them."
    return (
        "problem",
        part,
        f"{name} has random weights; name its checkpoint with weights, or write {RANDOM} on purpose.",
    )


def assumption(config: Any) -> str:
    """A note on the sizes of a network whose weights cannot be opened; empty where the config gives them."""
    arguments = config.get("init_args", Namespace())
    if all(arguments.get(name) is not None for name in SIZES if name in arguments):
        return ""
    name = config.class_path.rpartition(".")[2]
    return f", if the model has the default sizes of {name}: its own are in the weights, which were not opened"


def placed_anywhere(config: Any) -> Any:
    """The config of a component without a GPU that it names, which need not be here."""
    changed = config.clone()
    arguments = changed.get("init_args", Namespace())
    if str(arguments.get("device", "")).startswith("cuda"):
        arguments.device = "auto"
    return changed


def described(backbone: Backbone) -> str:
    """The size of a network in one sentence."""
    spec, count = backbone.spec, sum(weight.numel() for weight in backbone.parameters())
    latents = "x".join(str(edge) for edge in spec.latent_shape)
    return (
        f"It has {count / 1e6:,.1f} million numbers ({readable(size_of(backbone))}) in {spec.layers} layers of "
        f"{spec.heads} heads x {spec.head_dim}; latents are {latents}, in blocks of {spec.block}."
    )
