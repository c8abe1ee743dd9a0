"""An OpenAI-compatible endpoint on this machine that answers as a test wants: right, late, malformed, or with errors.

with serve(lambda asked: {"verdict": "yes"}) as server: ...        # base_url=server.address
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Asked:
    """A request, as far as a script may care."""

    number: int
    """From 0, over all requests."""
    body: Mapping[str, Any]
    key: str

    @property
    def system(self) -> str:
        return str(self.body["messages"][0]["content"])

    @property
    def question(self) -> str:
        return str(self.body["messages"][1]["content"])

    @property
    def has_schema(self) -> bool:
        return "response_format" in self.body


@dataclass(frozen=True)
class Answer:
    """What the server does with a request, other than reply a JSON value or a text."""

    status: int = 200
    body: Any = None
    """The whole body, as bytes or a JSON value; None is a message of this status."""
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    """How late it is."""
    text: str | None = None
    """A reply, instead of `body`."""


Script = Callable[[Asked], Any]


class JudgeServer(ThreadingHTTPServer):
    """`script` gives an Answer, or a reply: a text, or a JSON value that becomes one."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = script
        self.asked: list[Asked] = []
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def note(self, body: Mapping[str, Any], key: str) -> Asked:
        with self._lock:
            self.asked.append(Asked(len(self.asked), body, key))
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            return self.asked[-1]

    def done(self) -> None:
        with self._lock:
            self._at_once -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gives up is no news."""


@contextlib.contextmanager
def serve(script: Script) -> Iterator[JudgeServer]:
    server = JudgeServer(script)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def refusal(status: int, message: str = "no", code: str | None = None, **headers: str) -> Answer:
    return Answer(
        status, {"error": {"message": message, "code": code}}, {k.replace("_", "-"): headers[k] for k in headers}
    )


def completion(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    usage = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": usage}


class _Handler(BaseHTTPRequestHandler):
    server: JudgeServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = self.server.note(body, self.headers.get("Authorization", "").removeprefix("Bearer "))
        try:
            answer = refusal(404) if self.path != "/v1/chat/completions" else self.server.script(asked)
            if not isinstance(answer, Answer):
                answer = Answer(text=answer if isinstance(answer, str) else json.dumps(answer))
            time.sleep(answer.seconds)
        finally:
            self.server.done()
        self._send(answer)

    def _send(self, answer: Answer) -> None:
        content = completion(answer.text) if answer.text is not None else answer.body
        if not isinstance(content, bytes):
            content = json.dumps(content if content is not None else {}).encode()
        self.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass
