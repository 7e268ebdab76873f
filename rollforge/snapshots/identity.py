"""What a snapshot belongs to: weights, versions and the machine, and what of it has changed since."""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor, nn

import rollforge
from rollforge.files.checksummed import numbers_of

SAMPLED = 4096
"""Elements of each tensor that a fingerprint is made of."""

OPTIONAL = ("diffusers", "transformers")
PROCESSOR = Path("/proc/cpuinfo")
LONGEST = 60  # characters of a value in a sentence


def fingerprint(module: nn.Module) -> str:
    """A hash of the parameters and buffers of a module: names, dtypes, shapes, and up to ``SAMPLED`` elements of each.

    The elements are taken at equal strides and only they are copied to the CPU, so that even 14B parameters cost a few
    megabytes. Other weights, further training or a merged LoRA change it; a few elements changed by hand may not.
    """
    hasher = sha256()
    for name, value in sorted(chain(module.named_parameters(), module.named_buffers()), key=lambda pair: pair[0]):
        hasher.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        hasher.update(numbers_of(_sample(value.detach())))
    return hasher.hexdigest()


def versions(*devices: torch.device) -> dict[str, Any]:
    """Versions of packages that compute the pixels, and the machine: the ``devices`` in use, by default the CPU.

    Packages that only some backbones need are listed if they have been imported.
    """
    optional = {name: sys.modules[name].__version__ for name in OPTIONAL if name in sys.modules}
    return {
        "python": platform.python_version(),
        "rollforge": rollforge.__version__,
        "torch": str(torch.__version__),
        "av": av.__version__,
        "numpy": np.__version__,
        **optional,
        "machine": _machine(devices or (torch.device("cpu"),)),
    }


def _machine(devices: Iterable[torch.device]) -> dict[str, Any]:
    """What rounds the numbers. Of a GPU its number does not matter; the CPU does where a part runs on it."""
    kinds = sorted({device.type for device in devices})
    machine: dict[str, Any] = {"device": ", ".join(kinds)}
    if gpus := sorted({torch.cuda.get_device_name(device) for device in devices if device.type == "cuda"}):
        machine |= {"gpu": ", ".join(gpus), "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        machine["matmul"] = torch.get_float32_matmul_precision()
    if kinds != ["cuda"]:
        machine |= {"cpu": _processor(), "threads": torch.get_num_threads()}
    return machine


def devices_of(*modules: nn.Module) -> set[torch.device]:
    """Where the parameters of modules are."""
    return {parameter.device for module in modules for parameter in module.parameters()}


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs, as ``model.policy.init_args.sink_blocks: 5 -> 4``, in the order of ``old``, then what is new.

    Both are compared as JSON gives them back. Long hashes are cut where they differ, long values at the end. A key that
    is null on one side and absent on the other is the same: a later version may have keys that an earlier one had not.
    """
    before, after = _flat(old), _flat(new)
    missing = object()
    differences = []
    for path in [*before, *(path for path in after if path not in before)]:
        one, other = before.get(path, missing), after.get(path, missing)
        if (one is missing or other is missing) and (one is None or other is None):
            continue
        if one is missing:
            differences.append(f"{_title(path)}: {_short(other)} added")
        elif other is missing:
            differences.append(f"{_title(path)}: {_short(one)} removed")
        elif not _same(one, other):
            differences.append(f"{_title(path)}: {_difference(one, other)}")
    return differences


def _sample(value: Tensor) -> Tensor:
    """Elements at equal strides. Indices rather than slices: weights may lie in any order."""
    if not value.dim() or not value.numel():
        return value
    step = -(-value.numel() // SAMPLED)
    places = torch.arange(0, value.numel(), step, device=value.device)
    return value[torch.unravel_index(places, value.shape)]


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", PROCESSOR.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _flat(identity: dict[str, Any]) -> dict[str, Any]:
    return dict(_leaves("", json.loads(json.dumps(identity, default=str))))


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Values by dotted path. A list of plain values is one value; an empty dict is, too."""
    if isinstance(value, dict) and value:
        pairs = list(value.items())
    elif isinstance(value, list) and any(isinstance(each, (dict, list)) for each in value):
        pairs = [(str(n), each) for n, each in enumerate(value)]
    else:
        yield path, value
        return
    for key, each in pairs:
        yield from _leaves(f"{path}.{key}" if path else key, each)


def _same(one: Any, other: Any) -> bool:
    """1 and 1.0 are the same, and so are two nans; 1 and true are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other) or json.dumps(one) == json.dumps(other)


def _difference(one: Any, other: Any) -> str:
    if _is_hash(one) and _is_hash(other):
        apart = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
        length = max(4, apart + 1)
        return f"{one[:length]}.. -> {other[:length]}.."
    return f"{_short(one)} -> {_short(other)}"


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"[0-9a-f]{16,}", value))


def _short(value: Any) -> str:
    if _is_hash(value):
        return f"{value[:4]}.."
    text = value if isinstance(value, str) and value and value.isprintable() else json.dumps(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 2]}.."


def _title(path: str) -> str:
    title = path if path.isprintable() else json.dumps(path)
    return re.sub(r"^weights\.", "weights of ", title) or "identity"
