"""A hub on this machine: answers as huggingface.co does for files of repositories, or badly on request."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEB_PAGE = b"<!DOCTYPE html><html><body>Please log in to the network</body></html>"


@dataclass
class Hub:
    """What is on the hub, how it behaves, and what it was asked for.

    Attributes:
        files: Content by "repository/path".
        url: Where it answers.
        cut_after: Bytes of content after which each connection breaks; None for no such thing.
        answers: How often content is given before the server is "busy"; None for always.
        sent: What is sent in the place of a file, of the same length or another.
        behind_login: Whether every question is answered with a web page.
        has_hashes: Whether files have SHA-256 tags, as large ones do.
        asked: Method, "repository/path" and the Range header of every request.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    url: str = ""
    cut_after: int | None = None
    answers: int | None = None
    sent: bytes | None = None
    behind_login: bool = False
    has_hashes: bool = True
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)

    def downloads(self) -> list[str | None]:
        """The Range headers of all requests for content."""
        return [start for method, _, start in self.asked if method == "GET"]


@contextmanager
def local_hub(**behaviour: Any) -> Iterator[Hub]:
    """A hub that answers until the end of the block."""
    hub = Hub(**behaviour)

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def log_message(self, *message: object) -> None:
        """Say nothing."""

    def _answer(self, with_content: bool) -> None:
        owner, name, _resolve, _revision, path = self.path.strip("/").split("/", 4)
        asked = f"{owner}/{name}/{path}"
        self.hub.asked.append((self.command, asked, self.headers.get("Range")))
        if self.hub.behind_login:
            self._send(200, WEB_PAGE if with_content else b"", {"Content-Type": "text/html"})
        elif asked not in self.hub.files:
            known = any(file.startswith(f"{owner}/{name}/") for file in self.hub.files)
            code = "EntryNotFound" if known else "RepoNotFound"
            self._send(404, b"", {"X-Error-Code": code, "X-Error-Message": f"no such thing: {code}"})
        elif with_content and self.hub.answers == 0:
            self._send(503, b"", {"X-Error-Message": "busy"})
        else:
            self._give(self.hub.files[asked], with_content)

    def _give(self, content: bytes, with_content: bool) -> None:
        tag = hashlib.sha256(content).hexdigest() if self.hub.has_hashes else "a-tag"
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"', "Content-Type": "application/octet-stream"}
        if not with_content:
            self._send(200, b"", headers, length=len(content))
            return
        if self.hub.answers is not None:
            self.hub.answers -= 1
        content = content if self.hub.sent is None else self.hub.sent
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        rest = content[start:]
        self._send(206 if start else 200, rest[: self.hub.cut_after], headers, length=len(rest))

    def _send(self, status: int, content: bytes, headers: dict[str, str], length: int | None = None) -> None:
        self.send_response(status)
        for header, value in headers.items():
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = True
