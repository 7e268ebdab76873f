"""A chat endpoint that says what it is told to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """Answers each request with the next text, the last one again and again.

    A number is a status; bytes are sent as they are; None is never answered in time.
    """

    daemon_threads = True

    def __init__(self, replies: Sequence[str | int | bytes | None]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies, self.asked = list(replies), list[dict[str, Any]]()
        self.keys: list[str | None] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/chat/completions"
        self.server.keys.append(self.headers.get("Authorization"))
        reply = self.server.replies[min(len(self.server.asked), len(self.server.replies) - 1)]
        self.server.asked.append(content)
        if reply is None:
            time.sleep(0.6)
            return
        if isinstance(reply, int):
            self.send_response(reply)
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()
            return
        message = {"role": "assistant", "content": reply if isinstance(reply, str) else ""}
        body = reply if isinstance(reply, bytes) else json.dumps({"choices": [{"message": message}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:  # the client has read enough
            return

    def log_message(self, *arguments: Any) -> None:
        return


@contextmanager
def serving(*replies: str | int | bytes | None) -> Iterator[Server]:
    """A server that runs meanwhile."""
    with Server(replies) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
