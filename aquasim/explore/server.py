"""The page's server: on loopback alone, for pages of its own alone."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aquasim.errors import UserError
from aquasim.explore.page import POLICY, assets, library
from aquasim.explore.session import Session
from aquasim.explore.workers import StaleError

HOST = "127.0.0.1"
LARGEST = 16_384
"""Bytes of a request's body."""
PATIENCE_S = 30.0
"""Seconds to wait for the rest of a request."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Server(ThreadingHTTPServer):
    """Serves one session's page and its answers."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, session: Session, port: int) -> None:
        """Listen.

        Raises:
            OSError: the port cannot be had.
        """
        super().__init__((HOST, port), Handler)
        self.session = session
        self.assets = assets(session)
        self.names = {f"{name}:{self.server_address[1]}" for name in (HOST, "localhost")}

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_address[1]}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a browser that goes away is no error."""


class RefusedError(Exception):
    """A request that is not answered: status and reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "aquasim", ""
    timeout = PATIENCE_S
    server: Server

    def do_GET(self) -> None:
        """Give the page or a part of it."""
        try:
            self._check()
            found = library() if self.path == "/vega.js" else self.server.assets.get(self.path)
            if found is None:
                raise RefusedError(404, "no such page")
            self._send(200, *found)
        except RefusedError as refused:
            self._refuse(refused)

    def do_POST(self) -> None:
        """Simulate."""
        try:
            self._check()
            if self.path != "/simulate":
                raise RefusedError(404, "no such page")
            asked = self._body()
            self._send_json(200, self.server.session.answer(asked))
        except RefusedError as refused:
            self._refuse(refused)
        except UserError as error:
            self._send_json(400, {"error": str(error)})
        except StaleError:
            self._send_json(409, {"stale": True})

    def _check(self) -> None:
        """Refuse names that are not ours (another site's, pointed here), and other sites' pages."""
        if self.headers.get_all("Host", []) not in [[name] for name in self.server.names]:
            raise RefusedError(421, "this is not where you think")
        origin = self.headers.get("Origin")
        if origin is not None and origin.removeprefix("http://") not in self.server.names:
            raise RefusedError(403, "not for other sites")

    def _body(self) -> Any:
        length = self.headers.get("Content-Length", "")
        if self.headers.get("Transfer-Encoding") or not (length.isascii() and length.isdigit()):
            raise RefusedError(411, "how long is it?")
        if int(length[:9]) > LARGEST or len(length) > 9:
            raise RefusedError(413, f"more than {LARGEST} bytes")
        if self.headers.get_content_type() != "application/json":
            raise RefusedError(415, "application/json is needed")
        try:
            return json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            raise RefusedError(400, "not JSON") from None

    def _refuse(self, refused: RefusedError) -> None:
        self.close_connection = True  # its body, if any, was not read
        self._send_json(refused.status, {"error": str(refused)})

    def _send_json(self, status: int, value: dict[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(value, allow_nan=False).encode())

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""
