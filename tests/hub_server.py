"""A Hub of one data set, on this machine: just enough of its HTTP interface for `datasets` to read from.

with serve({"train.jsonl": b'...'}) as address: ...        # HF_ENDPOINT=address
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

ID = "someone/problems"
COMMIT = "5" * 40


@contextlib.contextmanager
def serve(files: Mapping[str, bytes]) -> Iterator[str]:
    """Serve files as the data set ID, whose main branch is at COMMIT; gives the address."""
    handler = type("Handler", (_Handler,), {"files": dict(files)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    files: Mapping[str, bytes]

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/").split("/")
        match path:
            case ["api", "datasets", "someone", "problems"]:
                self._json(self._info())
            case ["api", "datasets", "someone", "problems", "revision", revision]:
                if revision in ("main", COMMIT):
                    self._json(self._info())
                else:
                    self._missing("RevisionNotFound")
            case ["api", "datasets", "someone", "problems", "tree", _, *_]:
                self._json(self._entries(self.files))
            case ["api", "datasets", "someone", "problems", "paths-info", _]:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                self._json(self._entries([name for name in self.files if name in unquote(body)]))
            case ["datasets", "someone", "problems", "resolve", _, name] if name in self.files:
                self._file(self.files[name])
            case ["api", "datasets", *_]:
                self._missing("RepoNotFound")
            case _:
                self._missing("EntryNotFound")

    do_HEAD = do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass

    def _info(self) -> dict[str, Any]:
        siblings = [{"rfilename": name} for name in self.files]
        return {"id": ID, "sha": COMMIT, "siblings": siblings, "private": False, "gated": False, "disabled": False}

    def _entries(self, names: Any) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": name, "size": len(self.files[name]), "oid": _oid(self.files[name])}
            for name in names
        ]

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _file(self, content: bytes) -> None:
        self._answer(200, content, {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": COMMIT})

    def _missing(self, code: str) -> None:
        self._answer(404, b"", {"X-Error-Code": code, "X-Repo-Commit": COMMIT})

    def _answer(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
