"""Ranges of arguments: stated in their types, checked in one place.

A part writes ``def __init__(self, context_blocks: Count = 6)``. Its base class derives from ``Checked``, so that values
are checked before its constructor runs. The command line checks the same types before it builds anything.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from inspect import Signature, formatannotation, signature
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from rollforge.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """Finite numbers from ``least`` to ``most``, above ``above`` and below ``below``; multiples of ``step``."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    step: int | None = None

    def fit(self, where: str, kind: type, value: Any) -> Any:
        """The value itself. Raises ``UserError`` for one that is not a number of this ``kind`` in the range."""
        numbers = Integral if kind is int else Real
        if isinstance(value, bool) or not isinstance(value, numbers) or not self._holds(value):
            raise UserError(f"{where} must be {self.expected(kind)}, not {value!r:.60}.")
        return value

    def expected(self, kind: type) -> str:
        """The range in words."""
        number = "a whole number" if kind is int else "a number"
        if self.step:
            number = f"a multiple of {self.step}"
        if math.isfinite(self.least) and math.isfinite(self.most):
            return f"{number} from {_plain(self.least)} to {_plain(self.most)}"
        limits = [
            *([f"of {_plain(self.least)} or more"] if math.isfinite(self.least) else []),
            *([f"above {_plain(self.above)}"] if math.isfinite(self.above) else []),
            *([f"at most {_plain(self.most)}"] if math.isfinite(self.most) else []),
            *([f"below {_plain(self.below)}"] if math.isfinite(self.below) else []),
        ]
        return f"{number} {' and '.join(limits)}" if limits else number if kind is int else "a finite number"

    def _holds(self, value: Any) -> bool:
        inside = self.least <= value <= self.most and self.above < value < self.below
        return inside and not (self.step and value % self.step)


@dataclass(frozen=True)
class Home:
    """A path, in which a leading ``~`` is the home folder."""

    def fit(self, where: str, kind: type, value: Any) -> Any:
        """The path. Other values are returned unchanged: the component checks them itself."""
        return os.path.expanduser(value) if isinstance(value, str) else value


RULES = (Range, Home)

Count = Annotated[int, Range(1)]
CountFromZero = Annotated[int, Range(0)]
Finite = Annotated[float, Range()]
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
UserPath = Annotated[str, Home()]


class Checked:
    """A class whose subclasses check the arguments of their constructors against their types."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        checked(cls)


def checked(part: type[T]) -> type[T]:
    """Lets one class check the arguments of its constructor, which raises ``UserError`` for one out of range.

    For a class that does not derive from ``Checked``. Goes above ``@dataclass``.
    """
    init = vars(part).get("__init__")
    if init is None:
        return part

    @wraps(init)
    def construct(self: Any, *values: Any, **named: Any) -> None:
        bound = signature(init).bind(self, *values, **named)
        bound.arguments |= fitted(label(type(self)), hints(init), bound.arguments)
        init(*bound.args, **bound.kwargs)

    construct.__signature__ = _typed(init)  # type: ignore[attr-defined] # which inspect reads
    part.__init__ = construct  # type: ignore[method-assign] # takes the same arguments
    return part


def _typed(init: Callable[..., Any]) -> Signature:
    """The signature of a constructor with types in place of their names, so that the caller sees the ranges."""
    plain, types = signature(init), hints(init)
    parameters = [each.replace(annotation=types.get(each.name, each.annotation)) for each in plain.parameters.values()]
    return plain.replace(parameters=parameters)


def label(part: type) -> str:
    """The name of a component in errors: its section of the config, or its class."""
    return str(getattr(part, "config_section", part.__name__))


def hints(function: Callable[..., Any]) -> Mapping[str, Any]:
    """The types of a function's arguments; empty where one of them cannot be resolved."""
    try:
        return _hints(function)
    except (NameError, TypeError, AttributeError):
        return {}


@cache
def _hints(function: Callable[..., Any]) -> Mapping[str, Any]:
    return get_type_hints(function, include_extras=True)


def fitted(where: str, types: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the ``values`` that have a type with a rule. Raises ``UserError`` for one out of its range."""
    return {
        name: fit(f"{where}.{name}" if where else name, types[name], value)
        for name, value in values.items()
        if name in types and _ruled(types[name])
    }


def fit(where: str, kind: Any, value: Any) -> Any:
    """A value of a type with rules, paths resolved.

    Raises ``UserError`` for one that is out of range or not among the choices of a ``Literal``; ``where`` names it.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal and value not in inner:
        raise UserError(f"{where} must be one of {_choices(inner)}, not {value!r:.60}.")
    if origin is Annotated:
        for rule in inner[1:]:
            value = rule.fit(where, inner[0], value) if isinstance(rule, RULES) else value
        return value
    if origin in (Union, UnionType):
        return _fit_one(where, inner, value)
    if isinstance(value, Mapping) and len(inner) == 2:
        return {
            fit(f"a key of {where}", inner[0], key): fit(f"{where}[{key}]", inner[1], each)
            for key, each in value.items()
        }
    if isinstance(value, list | tuple) and _ruled(kind):
        kinds = inner if origin is tuple and inner[-1] is not Ellipsis else inner[:1] * len(value)
        if len(kinds) == len(value):
            return type(value)(fit(f"{where}[{n}]", kinds[n], each) for n, each in enumerate(value))
    return value


def _fit_one(where: str, kinds: Sequence[Any], value: Any) -> Any:
    """A value of one of several types."""
    if value is None and NoneType in kinds:
        return None
    plain = tuple(kind for kind in kinds if isinstance(kind, type) and kind is not NoneType)
    if isinstance(value, plain):
        return value
    errors = []
    for kind in filter(_ruled, kinds):
        try:
            return fit(where, kind, value)
        except UserError as error:
            errors.append(error)
    if len(errors) > 1 and (expected := [rule.expected(kind) for kind, rule in map(_range_of, kinds) if rule]):
        raise UserError(f"{where} must be {' or '.join(expected)}, not {value!r:.60}.")
    raise errors[0]


def _range_of(kind: Any) -> tuple[type, Range | None]:
    rule = next((rule for rule in getattr(kind, "__metadata__", ()) if isinstance(rule, Range)), None)
    return getattr(kind, "__origin__", kind), rule


def _ruled(kind: Any) -> bool:
    """Whether a type has a rule anywhere in it."""
    if get_origin(kind) is Annotated:
        return any(isinstance(rule, RULES) for rule in get_args(kind)[1:])
    return get_origin(kind) is Literal or any(map(_ruled, get_args(kind)))


def described(kind: Any) -> str:
    """A type in words, as ``rollforge plugins show`` prints it."""
    base, rule = _range_of(kind)
    inner = get_args(kind)
    if get_origin(kind) is Literal:
        return f"one of {_choices(inner)}"
    if rule or get_origin(kind) is Annotated:
        return rule.expected(base) if rule else "a path"
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(described, inner))
    if not _ruled(kind):
        return "None" if kind is NoneType else formatannotation(kind)
    return f"{get_origin(kind).__name__}[{', '.join(map(described, inner))}]"


def _choices(values: Sequence[Any]) -> str:
    return ", ".join(map(repr, values))


def _plain(number: float) -> str:
    return f"{int(number):,}" if number == int(number) else f"{number:g}"
