"""Builds the parts of a parsed config, with one sentence for a constructor that fails."""

from __future__ import annotations

import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from rollforge.errors import UserError, ran_out


@contextmanager
def explained(parser: ArgumentParser) -> Iterator[None]:
    """In here ``parser.instantiate`` raises ``UserError`` where a constructor fails.

    jsonargparse tries the members of a union in turn and hides why they failed: what is raised is the first failure,
    not its list of types. What is built later, such as an optimizer, raises likewise.
    """
    failures: list[BaseException] = []

    def build(kind: type, *values: Any, **named: Any) -> Any:
        try:
            return kind(*values, **named)
        except (Exception, SystemExit) as error:  # nothing has been asked to end yet
            failures.append(error if isinstance(error, UserError) or ran_out(error) else _refused(kind, error))
            raise failures[-1] from error

    with warnings.catch_warnings(action="ignore"):  # the parameter that replaces it would go before Lightning's own
        parser.add_instantiator(build, object)
    try:
        yield
    except Exception as error:
        if failures and failures[0] is not error:
            raise failures[0] from error
        raise


def _refused(kind: type, error: BaseException) -> UserError:
    first = (str(error).strip() or "no message").splitlines()[0].rstrip(".")
    if isinstance(error, TypeError) and (missing := re.search(r"missing \d+ required .*arguments?: (.*)", first)):
        return UserError(f"{kind.__name__} needs {missing[1]}; give it in the config.")
    if isinstance(error, ImportError):
        return UserError(f"{kind.__name__} needs a package that cannot be imported ({first}); install it.")
    frame = traceback.extract_tb(error.__traceback__)[-1]
    raised = f"{type(error).__name__} in {Path(frame.filename).name}, line {frame.lineno}: {first}"
    return UserError(f"{kind.__name__} cannot be built ({raised}); check its arguments in the config.")
