"""Errors that a user can fix, and the nearest valid spelling of a name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""All but the line feed, between the lines of a table; what turns the direction of writing; and what UTF-8 cannot hold.
"""

NO_MEMORY = (  # what torch says in a RuntimeError, on whatever device
    "not enough memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


class UserError(Exception):
    """What was wrong, what was expected and how to fix it, in one sentence. The command line shows no traceback.

    Control characters, which a name or value in an untrusted file may hold, are written out: they steer terminals.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    """The text with control characters written out, which a file's name may hold and which steer terminals."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def nearest(word: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` when a known name is close, else nothing."""
    names = list(known)
    lower = {name.lower(): name for name in names}
    close = get_close_matches(word.lower(), lower, n=1, cutoff=0.5)
    return f" Did you mean {lower[close[0]]!r}?" if close else ""


def ran_out(error: BaseException) -> bool:
    """Whether an error says that there is no memory left."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)
    )


def of_the_machine(error: BaseException) -> UserError | None:
    """The sentence for a file that cannot be used or memory that ran out, where no other was given; else nothing."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    if isinstance(error, OSError) and error.filename is not None:
        return UserError(f"{error.filename} cannot be used ({error.strerror}); check the path and its permissions.")
    if isinstance(error, OSError):
        return UserError(f"The system refused an operation ({first}); check files, disk and network.")
    if ran_out(error):
        return UserError(f"The memory ran out ({first}); free memory that other programs hold, or make less at once.")
    return None


class PartError(UserError):
    """A part raised an exception of its own, which is the cause of this one."""


def class_of(part: object) -> str:
    """The name of a component's class; of what is a class, its own."""
    return (part if isinstance(part, type) else type(part)).__name__


def attributed(error: Exception, kind: str, part: object, when: str) -> Exception:
    """What to raise in place of an error of a part: it names the part, and ``when`` says what it was asked for.

    Errors that are sentences already, and those of a machine without memory, stay as they are.
    """
    if isinstance(error, UserError) or ran_out(error):
        return error
    first = (str(error).strip() or "no message").splitlines()[0].rstrip(".")
    return PartError(
        f"The {kind} {class_of(part)} raised {type(error).__name__} {when} ({first}); fix it, or name another "
        f"{kind} in the config."
    )


@contextmanager
def attribute_errors(kind: str, part: object, when: str) -> Iterator[None]:
    """Around a call into a part: what it raises is ``attributed`` to it."""
    try:
        yield
    except Exception as error:
        if (named := attributed(error, kind, part, when)) is error:
            raise
        raise named from error
