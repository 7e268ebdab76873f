"""An OpenAI-compatible endpoint: one request, one answer, within limits."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, Request, build_opener

from rollforge.errors import UserError

KEY = "ROLLFORGE_INSPECT_KEY"
"""The environment variable with the key; it is read nowhere else."""
LARGEST = 1 << 18
"""Bytes of an answer at most."""
OWN = ("localhost", "127.0.0.1", "::1")
"""Names of this machine."""


class Endpoint:
    """A chat endpoint. Redirects are not followed, since they would take the key elsewhere.

    Args:
        address: such as ``http://127.0.0.1:8000/v1``. Raises ``UserError`` for one that is not http or https, and for
            http to another machine where there is a key.
        timeout: seconds that an answer may take in all.
    """

    def __init__(self, address: str, timeout: float = 120.0) -> None:
        self.address, self.timeout = f"{address.rstrip('/')}/chat/completions", timeout
        try:
            parts = urlsplit(address)
            known, own = parts.scheme in ("http", "https") and bool(parts.hostname), parts.hostname in OWN
        except ValueError:
            known = own = False
        if not known or parts.username or parts.query or parts.fragment:
            raise UserError(
                f"{address!r:.80} is not the address of an endpoint; give one such as http://127.0.0.1:8000/v1."
            )
        self.key = os.environ.get(KEY, "")
        if not (self.key.isascii() and self.key.isprintable()):
            raise UserError(f"{KEY} holds characters that no key has, such as a line break; set it again.")
        if self.key and parts.scheme == "http" and not own:
            raise UserError(f"{KEY} is set, and {address:.80} is not encrypted; use https, or unset {KEY}.")
        self._opener: OpenerDirector = build_opener(_Stay, *([ProxyHandler({})] if own else []))

    def ask(self, content: Mapping[str, Any]) -> str:
        """The text that a model answers. Raises ``UserError`` for all that keeps it from answering."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = Request(self.address, json.dumps(content).encode(), headers, method="POST")
        try:
            answer = json.loads(self._read(request))
            text = answer["choices"][0]["message"]["content"]
        except HTTPError as error:
            raise UserError(f"{self.address} answered with status {error.code} ({error.reason}); check it.") from error
        except TimeoutError as error:
            raise self._late() from error
        except (OSError, HTTPException) as error:
            if isinstance(getattr(error, "reason", None), TimeoutError):
                raise self._late() from error
            raise UserError(f"{self.address} cannot be reached ({error}); check the address and the server.") from error
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise UserError(f"{self.address} did not answer as a chat endpoint does; check the address.") from error
        if not isinstance(text, str):
            raise UserError(f"{self.address} answered without text; choose a model that writes text.")
        return text

    def _read(self, request: Request) -> bytes:
        until, read = time.monotonic() + self.timeout, bytearray()
        with self._opener.open(request, timeout=self.timeout) as answer:
            while part := answer.read1(1 << 16):
                read += part
                if len(read) > LARGEST:
                    raise UserError(f"{self.address} answered with more than {LARGEST >> 10} KiB; limit its answers.")
                if time.monotonic() > until:
                    raise TimeoutError
        return bytes(read)

    def _late(self) -> UserError:
        return UserError(f"{self.address} gave no answer within {self.timeout:g} s; allow more with --timeout.")


class _Stay(HTTPRedirectHandler):
    """A redirect is an answer with its status."""

    def redirect_request(self, *arguments: Any, **options: Any) -> None:
        return None
