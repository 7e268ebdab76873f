"""What jsonargparse says about a config, as one sentence with the nearest valid spelling."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import get_args

from lightning.pytorch import Trainer, callbacks, loggers

from rollforge.errors import nearest
from rollforge.lightning.data import RolloutData
from rollforge.lightning.module import RolloutModule
from rollforge.ranges import hints
from rollforge.registry import registry
from rollforge.trust.imports import DENIED, refusal

TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list",
    "collections.abc.Sequence": "a list",
    "dict": "keys with values",
}
"""What a value must be, by the name of its type."""
EXPECTED = re.compile(r"Expected an? (?:<class '([\w.]+)'>|typing\.Literal\[([^\]]+)\])")
PART = re.compile(r"(?:Expected a dot import path string|[Uu]nexpected class_path|Import path)\W*'?([\w.]+)")
CLASS = re.compile(r"[A-Z]\w*|\w+(\.\w+)*\.[A-Z]\w*")
"""What is meant as the name of a class."""
PATHS = {
    "does not exist": "There is no file {}.",
    "is not a file": "{} is not a file; give a file.",
    "no permission to access": "{} may not be read; check its permissions.",
    "is not readable": "{} may not be read; check its permissions.",
}
"""What is wrong with a path, by what jsonargparse says."""
PATH = re.compile(rf"({'|'.join(PATHS)}): '?([^'\n]+)'?")
OWN = re.compile(r"(?:There is no (?:key|part) '|[\w.]+ must (?:be|name) |[\w.-]+ [\w.]+: the \w+ '\w+' cannot )[^\n]*")
"""A sentence of ours that a union has swallowed."""
NOT_A_PART = "{} must name a part (class_path and init_args, and no other key){}. See: rollforge plugins."


def sentence(message: str, options: Iterable[str] = (), file: str = "") -> str:
    """One sentence for a message of jsonargparse.

    Args:
        message: what it says.
        options: those of the parser that it is from.
        file: the config that it is about, empty for the command line.
    """
    message = re.sub(r"\S{500,}", lambda found: f"{found[0][:60]}...", message)
    if found := re.search(r"(?:Expected a path but|File does not exist:) '?(\w[\w+.-]*://[^\s']+)", message):
        return f"The config {found[1]} is on another machine; fetch it, read it, and give the file."
    where = ".".join(re.findall(r'Parser key "([^"]+)"', message))
    if (found := DENIED.search(message)) and found[1].rpartition(".")[2] in _bases():  # to which other keys were given
        return NOT_A_PART.format(where or "A part", "")
    if found := DENIED.search(message):
        return refusal(found[1], f"{f' in {file}' if file else ''}{f' at {where}' if where else ''}")
    if found := OWN.search(message):
        return f"{where}: {found[0]}" if where else found[0]
    if found := re.search(r"unrecognized arguments?: (\S+)", message):
        return f"There is no option {found[1]}.{nearest(found[1].split('=')[0], options)}"
    if found := re.search(r"(?:Group '([^']+)' )?(?:does not accept option|Key|Option|option) '([^']+)'", message):
        return _unknown_key(".".join(filter(None, found.groups())), where, options)
    if found := PATH.search(message):
        return PATHS[found[1]].format(found[2])
    return _wrong_value(message, where) or " ".join(message.split())


def _wrong_value(message: str, where: str) -> str | None:
    """The sentence for a value that is not what was expected, whatever the type allows."""
    value = re.search(r"(?:Got value|Given value): ([^\n]*)", message)  # of several, the innermost comes first
    instead = f", not {_quoted(value[1])}" if value else ""
    subject = where or "A value"
    expected = [TYPES[name] for name, _ in EXPECTED.findall(message) if name in TYPES]
    choices = [choice.strip() for _, listed in EXPECTED.findall(message) for choice in listed.split(",") if choice]
    if (found := PART.search(message)) and (not expected or CLASS.fullmatch(value[1].strip() if value else "")):
        return _unknown_part(found[1], where)
    if found := re.search(r"Multiple subclasses with name (\w+)\. [^:]*: ([\w., ]+)\.", message):
        return f"{subject}: there are several classes called {found[1]}; write one of {found[2]}."
    if found := re.search(r"Expected a tuple with (\d+) elements", message):
        return f"{subject} must be a list of {found[1]}{instead}."
    if choices:
        return f"{subject} must be one of {', '.join(dict.fromkeys(choices))}{instead}."
    if expected:
        return f"{subject} must be {' or '.join(dict.fromkeys(expected))}{instead}."
    if re.search(r"Not a valid subclass of|is abstract", message):
        return NOT_A_PART.format(subject, instead)
    if "'NoneType' object has no attribute 'keys'" in message:
        return f"The init_args of {subject} are empty; write keys under them, or leave them out."
    if found := re.search(r"Value not boolean: (.*)\.", message):
        return f"A switch such as resume must be true or false, not {_quoted(found[1])}."
    return None


def _quoted(value: str) -> str:
    """A value as a config has it: text between quotes, cut where it is long."""
    plain = re.fullmatch(r"[-+.\de]+|None|True|False|[\[{(].*", value := value.strip())
    return f"{value:.60}" if plain else f"{value!r:.60}"


def _unknown_key(path: str, where: str, options: Iterable[str]) -> str:
    """The first step of a dotted path that is not a key of anything."""
    steps = path.split(".")
    own = [option.lstrip("-") for option in options if "." not in option]
    known = own if len(steps) == 1 and not where else _keys()
    wrong = next((n for n, step in enumerate(steps) if step not in known), len(steps) - 1)
    where = ".".join(steps[:wrong]) or where
    return f"There is no key {steps[wrong]!r}{f' at {where}' if where else ''}.{nearest(steps[wrong], known)}"


def _unknown_part(name: str, where: str) -> str:
    parts = {part.name: part for part in registry().parts.values()}
    at = f" at {where}" if where else ""
    if name in parts:
        return f"{name!r} does not fit{at}: it is a {parts[name].kind}. See: rollforge plugins."
    if where.startswith("trainer."):
        known = [each for module in (callbacks, loggers) for each in module.__all__]
        return f"There is no public class {name!r} of Lightning{at}.{nearest(name, known)}"
    return f"There is no part called {name!r}{at}.{nearest(name, parts)} See: rollforge plugins."


def _bases() -> set[str]:
    """The names of the base classes of parts, which are not parts themselves."""
    kinds = hints(RolloutModule.__init__).values()
    return {each.__name__ for kind in kinds for each in (kind, *get_args(kind)) if inspect.isabstract(each)}


def _keys() -> list[str]:
    """Every key that the config of some part can have, of those that are imported."""
    targets = [RolloutModule, RolloutData, Trainer, *registry().loaded()]
    sections = ["model", "data", "trainer", "output_dir", "overwrite", "seed_everything", "class_path", "init_args"]
    return [*sections, *(name for target in targets for name in inspect.signature(target).parameters)]
