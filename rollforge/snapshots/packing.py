"""A nested state as a tree that JSON can hold and a flat dict of tensors.

In the tree, lists, strings, ``None``, booleans, whole numbers up to 2**53 and finite floats stand for themselves.
Everything else is an object with one key, which says what it is:

=============================  ==================================================================================
``{"dict": [[key, value]]}``   a dict in its order; keys are strings or whole numbers
``{"tuple": [...]}``           a tuple
``{"int": "-0x20000..."}``     a whole number beyond 2**53, which other readers of JSON would round
``{"float": "nan"}``           ``nan``, ``inf`` or ``-inf``
``{"tensor": "name"}``         a tensor
=============================  ==================================================================================
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rollforge.errors import UserError
from rollforge.files.checksummed import NAMES
from rollforge.state import State

EXACT = 2**53
DEEPEST = 100
"""Levels of nesting; a state that contains itself has more."""

NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def pack(state: State) -> tuple[Any, dict[str, Tensor]]:
    """A state as tree and tensors.

    The tensors are those of the state, detached, where they are: the writer moves them to the CPU one by
    one, so that a snapshot of a GPU needs no room for all of them. Tensors that share their storage are kept apart.

    Raises:
        UserError: for what would not come back as it was: objects, subclasses of plain types, sparse tensors, formats
            that safetensors does not know, more than ``DEEPEST`` levels. It says where in the state that is.
    """
    tensors: dict[str, Tensor] = {}
    return _pack(state, tensors, "", 0), tensors


def unpack(tree: Any, tensors: Mapping[str, Tensor]) -> State:
    """The state that ``pack`` was given, on the CPU if the tensors are. Raises ``ValueError`` for any other tree."""
    state = _unpack(tree, tensors, 0)
    if not isinstance(state, dict):
        raise ValueError("the state is not a dict")
    return state


def _pack(value: Any, tensors: dict[str, Tensor], path: str, depth: int) -> Any:
    if depth > DEEPEST:
        raise _odd(path, f"nested more than {DEEPEST} levels deep")
    if isinstance(value, Tensor):
        return {"tensor": _named(value, tensors, path)}
    kind = type(value)
    if value is None or kind in (str, bool, int, float):
        return _pack_plain(value)
    if kind is dict:
        if kinds := {type(key) for key in value} - {str, int}:
            raise _odd(path, f"a dict with a key of type {kinds.pop().__name__}")
        pairs = value.items()
        return {"dict": [[_pack_plain(key), _pack(each, tensors, f"{path}.{key}", depth + 1)] for key, each in pairs]}
    if kind in (list, tuple):
        packed = [_pack(each, tensors, f"{path}.{n}", depth + 1) for n, each in enumerate(value)]
        return packed if kind is list else {"tuple": packed}
    raise _odd(path, f"of type {kind.__name__}")


def _pack_plain(value: Any) -> Any:
    if type(value) is int and abs(value) > EXACT:
        return {"int": hex(value)}
    if type(value) is float and not math.isfinite(value):
        return {"float": str(value)}
    return value


def _named(value: Tensor, tensors: dict[str, Tensor], path: str) -> str:
    """Keeps a tensor under a name that tells those who open the file where it belongs."""
    if value.layout is not torch.strided or value.dtype not in NAMES or value.is_meta:
        raise _odd(path, f"a tensor in the form {value.layout}, {value.dtype}, {value.device}".replace("torch.", ""))
    name = f"{len(tensors)}{re.sub(r'[^0-9A-Za-z_.-]', '_', path)[:100]}"
    tensors[name] = value.detach()
    return name


def _odd(path: str, what: str) -> UserError:
    where = path.lstrip(".")[:200] or "the state"
    return UserError(
        f"No snapshot can be made: {where} is {what}, expected tensors and plain data; give the part it belongs to a "
        "state_dict and a load_state_dict, or generate without snapshots."
    )


def _unpack(tree: Any, tensors: Mapping[str, Tensor], depth: int) -> Any:
    if depth > DEEPEST:
        raise ValueError("the state is nested too deep")
    if isinstance(tree, list):
        return [_unpack(each, tensors, depth + 1) for each in tree]
    if not isinstance(tree, dict):
        return tree
    (tag, content), *more = tree.items() or [(None, None)]
    if more:
        raise ValueError("a part of the state has two kinds")
    match tag, content:
        case "dict", list():
            return _unpack_dict(content, tensors, depth)
        case "tuple", list():
            return tuple(_unpack(each, tensors, depth + 1) for each in content)
        case "int", str():
            return int(content, 16)
        case "float", str() if content in NOT_FINITE:
            return NOT_FINITE[content]
        case "tensor", str() if content in tensors:
            return tensors[content]
    raise ValueError(f"a part of the state is unknown or missing: {str(tag)[:20]} {str(content)[:40]}")


def _unpack_dict(pairs: list[Any], tensors: Mapping[str, Tensor], depth: int) -> dict[str | int, Any]:
    found: dict[str | int, Any] = {}
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError("a dict of the state is not a list of pairs")
        key = _unpack(pair[0], {}, depth + 1)
        if type(key) not in (str, int) or key in found:
            raise ValueError(f"a dict of the state has a bad key {str(key)[:40]}")
        found[key] = _unpack(pair[1], tensors, depth + 1)
    return found
