"""A Hub that takes what is pushed, on this machine: just enough of its HTTP interface for `huggingface_hub` to make a
repository, send large files, and commit. What it was sent is what it holds.

with UploadHub(token="hf_good") as hub: ...        # HF_ENDPOINT=hub.address
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

ORGANISATION = "someone"
"""The one that the token may write to."""


@dataclass
class Repository:
    """What one holds now, and the commits that made it so, the newest last."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)
    commits: list[tuple[str, str]] = field(default_factory=lambda: [("0" * 40, "initial commit")])


class UploadHub:
    """Serves until it is left. `fail` is asked before each request, with its method and path: a number is the status
    that it is refused with; -1 breaks the connection off, and -2 does so once the request is done."""

    def __init__(self, token: str, fail: Callable[[str, str], int] = lambda method, path: 0) -> None:
        self.token, self.fail = token, fail
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: UploadHub
    protocol_version = "HTTP/1.1"
    _lost = False
    """Whether the answer does not come."""

    def _do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.asked.append(f"{self.command} {path}")
        status = self.hub.fail(self.command, path)
        self._lost = status < 0
        if status == -1:
            self._answer(500, b"", {})
        elif status > 0:
            self._json(status, {"error": "so it is"})
        elif path.startswith("lfs/"):
            self._stored(path.removeprefix("lfs/"), body)
        elif self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._json(401, {"error": "Invalid username or password."})
        else:
            self._asked(path.split("/"), body)

    do_GET = do_POST = do_PUT = _do

    def log_message(self, *_: Any) -> None:
        pass

    def _asked(self, path: list[str], body: bytes) -> None:
        match path:
            case ["api", "validate-yaml"]:
                self._json(200, {"errors": [], "warnings": []})
            case ["api", "repos", "create"]:
                self._created(json.loads(body))
            case ["api", "models" | "datasets" as kinds, organisation, name, *what]:
                self._of(kinds, f"{organisation}/{name}", what, body)
            case [*_, organisation, name, "info", "lfs", "objects", "batch"] if name.endswith(".git"):
                self._batch(json.loads(body))
            case _:
                self._json(404, {"error": "no such thing"})

    def _created(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        kind = "datasets" if asked.get("type") == "dataset" else "models"
        url = f"{self.hub.address}/{'datasets/' if kind == 'datasets' else ''}{name}"
        if asked["organization"] != ORGANISATION:
            self._json(403, {"error": "You don't have the rights to create a model under this namespace"})
        elif (kind, name) in self.hub.repositories:
            self._json(409, {"error": "You already created this repo", "url": url})
        else:
            self.hub.repositories[kind, name] = Repository(asked.get("visibility") == "private")
            self._json(200, {"url": url, "name": name})

    def _of(self, kinds: str, name: str, what: list[str], body: bytes) -> None:
        repository = self.hub.repositories.get((kinds, name))
        if repository is None:
            self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
            return
        match what:
            case [] | ["revision", _]:
                told = {"id": name, "sha": repository.commits[-1][0], "private": repository.private}
                self._json(200, told | {"siblings": [{"rfilename": file} for file in repository.files]})
            case ["preupload", _]:
                files = [file["path"] for file in json.loads(body)["files"]]
                modes = [{"path": f, "uploadMode": _mode(f), "shouldIgnore": False} for f in files]
                self._json(200, {"files": modes})
            case ["commit", _]:
                self._committed(repository, [json.loads(line) for line in body.splitlines()])
            case ["paths-info", _]:
                wanted = parse_qs(body.decode())["paths"]
                self._json(200, [_entry(repository, file) for file in wanted if file in repository.files])
            case _:
                self._json(404, {"error": "no such thing"})

    def _batch(self, asked: dict[str, Any]) -> None:
        """Where each large file goes; one that is here already is not sent again."""
        objects: list[dict[str, Any]] = []
        for one in asked["objects"]:
            upload = {"upload": {"href": f"{self.hub.address}/lfs/{one['oid']}", "header": {}}}
            objects.append(one if one["oid"] in self.hub.objects else one | {"actions": upload})
        self._json(200, {"transfer": "basic", "objects": objects})

    def _stored(self, oid: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self._json(400, {"error": "other bytes"})
            return
        self.hub.objects[oid] = body
        self._json(200, {})

    def _committed(self, repository: Repository, lines: list[dict[str, Any]]) -> None:
        """All of it, or nothing."""
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, repository.commits[-1][0]):
            self._json(412, {"error": "A commit has happened since."})
            return
        files, large = dict(repository.files), set(repository.large)
        for line in lines[1:]:
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.hub.objects[value["oid"]]
                    large.add(value["path"])
                case "deletedFile":
                    del files[value["path"]]
        oid = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        repository.files, repository.large = files, large
        repository.commits.append((oid, header["summary"]))
        self._json(200, {"commitUrl": f"{self.hub.address}/commit/{oid}", "commitOid": oid, "success": True})

    def _json(self, status: int, value: Any) -> None:
        self._answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        if self._lost:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _mode(file: str) -> str:
    return "lfs" if file.endswith((".safetensors", ".parquet")) else "regular"


def _entry(repository: Repository, file: str) -> dict[str, Any]:
    content = repository.files[file]
    blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": file, "size": len(content), "oid": blob}
    if file in repository.large:
        sha256 = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
    return entry
