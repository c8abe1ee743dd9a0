"""A Hub of one data set and one model, on this machine: just enough of its HTTP interface for `datasets` and
`huggingface_hub` to read from.

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
MODEL = "someone/tiny"
COMMIT = "5" * 40
REVISIONS = ("main", "v1", COMMIT)


@contextlib.contextmanager
def serve(files: Mapping[str, bytes], model: Mapping[str, bytes] | None = None, gated: bool = False) -> Iterator[str]:
    """Serve files as the data set ID, and the others as MODEL; all REVISIONS are one commit. Gives the address.

    A gated model is listed, but its files are refused."""
    handler = type("Handler", (_Handler,), {"files": dict(files), "model": dict(model or {}), "gated": gated})
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
    model: Mapping[str, bytes]
    gated: bool

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/").split("/")
        match path:
            case ["api", "datasets", "someone", "problems", *what]:
                self._api(ID, self.files, what)
            case ["datasets", "someone", "problems", "resolve", _, *name] if "/".join(name) in self.files:
                self._file(self.files["/".join(name)])
            case ["api", "models", "someone", "tiny", *what]:
                self._api(MODEL, self.model, what)
            case ["someone", "tiny", "resolve", *_] if self.gated:
                self._refused(403, "GatedRepo")
            case ["someone", "tiny", "resolve", _, *name] if "/".join(name) in self.model:
                self._file(self.model["/".join(name)])
            case ["api", "datasets" | "models", *_]:
                self._refused(404, "RepoNotFound")
            case _:
                self._refused(404, "EntryNotFound")

    do_HEAD = do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass

    def _api(self, repository: str, files: Mapping[str, bytes], what: list[str]) -> None:
        match what:
            case ["revision" | "tree", revision, *_] if revision not in REVISIONS:
                self._refused(404, "RevisionNotFound")
            case [] | ["revision", _]:
                self._json(_info(repository, files))
            case ["tree", *_]:
                self._json(_entries(files, files))
            case ["paths-info", _]:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                self._json(_entries(files, [name for name in files if name in unquote(body)]))
            case _:
                self._refused(404, "EntryNotFound")

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _file(self, content: bytes) -> None:
        self._answer(200, content, {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": COMMIT})

    def _refused(self, status: int, code: str) -> None:
        self._answer(status, b"", {"X-Error-Code": code, "X-Repo-Commit": COMMIT})

    def _answer(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _info(repository: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    siblings = [{"rfilename": name} for name in files]
    return {"id": repository, "sha": COMMIT, "siblings": siblings, "private": False, "gated": False, "disabled": False}


def _entries(files: Mapping[str, bytes], names: Any) -> list[dict[str, Any]]:
    return [{"type": "file", "path": name, "size": len(files[name]), "oid": _oid(files[name])} for name in names]


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
