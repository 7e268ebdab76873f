"""Published weights of Wan's transformer and its descendants: Wan 2.1, Self Forcing, Causal Forcing, LongLive.

From any file they are returned under the original names, opened and not yet read. The training code of the
Self Forcing family saves ``{"generator": ..., "generator_ema": ...}``, with ``model.`` and FSDP's words in the names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollforge.backbones.low_rank import merged_when_read
from rollforge.backbones.safetensors_file import read_header
from rollforge.backbones.scaled import scaled
from rollforge.backbones.stored import check_filled
from rollforge.backbones.tensors import (
    INDEX,
    SUFFIXES,
    TORCH,
    Stored,
    Tensors,
    check_kind,
    index_of,
    odd_format,
    open_file,
    open_torch,
    tensors_of,
)
from rollforge.backbones.training_checkpoint import is_training_checkpoint, weights_of
from rollforge.backbones.wan.kind import Origin, check_task, origin
from rollforge.backbones.wan.locate import locate
from rollforge.backbones.wan.names import Layout, layout_of, to_original, unwrapped
from rollforge.errors import UserError

AVERAGED, TRAINED = "generator_ema", "generator"
OWN = "backbone"  # the network in a checkpoint of rollforge fit
CHOICES = {None: (AVERAGED, TRAINED), True: (AVERAGED,), False: (TRAINED,)}
NESTED = ("model", "state_dict")  # where others put their only set of weights


@dataclass(frozen=True)
class Checkpoint:
    """Opened weights under the original names.

    ``file`` is the file or index that was found, ``layout`` the one its names are in, ``taken`` the key that the
    weights were under, empty where the file holds nothing else, and ``origin`` says whether they are causal.
    """

    file: Path
    layout: Layout
    taken: str
    tensors: Tensors
    origin: Origin

    @property
    def files(self) -> list[Path]:
        """Every file that holds some of the weights."""
        return sorted({stored.file for stored in self.tensors.values()})


def open_checkpoint(weights: str, what: str, ema: bool | None = None) -> Checkpoint:
    """Opens a file, folder or hub id. Raises ``UserError`` for anything but a transformer's weights.

    Args:
        weights: what the user has named.
        what: who is asking.
        ema: of a file with both, true for the averaged weights and false for the trained ones. Unset takes the
            averaged ones where there are any.
    """
    named = locate(weights, what)
    file = index_of(named, what) or named
    taken, tensors = _opened(file, what, ema)
    tensors = scaled(tensors, what)
    for name, stored in tensors.items():
        check_filled(stored, what)
        if not stored.dtype.is_floating_point:
            raise odd_format(str(stored.dtype).removeprefix("torch."), name, stored.file, what)
    names = {name: unwrapped(name) for name in tensors}
    layout = layout_of(names.values())
    if layout == "diffusers":
        names = {name: to_original(bare) for name, bare in names.items()}
    tensors = renamed(tensors, names, what)
    check_task(tensors, file, what)
    metadata = read_header(file, what).metadata if file.suffix == ".safetensors" else {}
    return Checkpoint(file, layout, taken, tensors, origin(weights, file, taken, metadata))


def renamed(tensors: Tensors, names: dict[str, str], what: str) -> Tensors:
    """Tensors under other names. Raises ``UserError`` where two would share one."""
    result: dict[str, Stored] = {}
    for name, stored in tensors.items():
        if names[name] in result:
            first = result[names[name]].name
            raise UserError(
                f"{what}: {stored.file} holds {names[name]} twice, as {first} and as {stored.name}; take another file."
            )
        result[names[name]] = stored
    return result


def _opened(file: Path, what: str, ema: bool | None) -> tuple[str, Tensors]:
    check_kind(file, what)
    if file.suffix in TORCH:
        taken, content = _chosen(open_torch(file, what), file, what, ema)
        return taken, merged_when_read(tensors_of(content, file, what))
    if not file.name.endswith((*SUFFIXES, INDEX)):
        raise UserError(f"{what}: {file} is not a file of weights; expected {', '.join(SUFFIXES)} or *{INDEX}.")
    if ema is not None:
        raise _one_set(file, what, ema)
    return "", open_file(file, what)


def _chosen(content: dict[str, Any], file: Path, what: str, ema: bool | None) -> tuple[str, dict[str, Any]]:
    """The key and the weights to take from a ``.pt``."""
    if is_training_checkpoint(content):
        return OWN, weights_of(content, OWN, file, what, ema)
    sets = [key for key in (AVERAGED, TRAINED) if isinstance(content.get(key), dict)]
    for key in CHOICES[ema]:
        if key in sets:
            return key, content[key]
    if sets:
        raise UserError(
            f"{what}: {file} holds {sets[0]} and no {CHOICES[ema][0]}; leave ema unset to take what there is."
        )
    if ema is not None:
        raise _one_set(file, what, ema)
    for key in NESTED:
        if isinstance(content.get(key), dict):
            return key, content[key]
    if any(isinstance(value, dict) for value in content.values()):
        raise UserError(
            f"{what}: {file} holds {', '.join(list(content)[:5])}; expected {AVERAGED} or {TRAINED}, or the weights "
            "themselves, so take another file."
        )
    return "", content


def _one_set(file: Path, what: str, ema: bool) -> UserError:
    return UserError(
        f"{what}: {file} holds one set of weights, not {AVERAGED} next to {TRAINED}; leave ema unset instead of "
        f"{str(ema).lower()}."
    )
