"""An MLflow server whose answers are wrong."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from orchestrator.errors import RatchetError
from orchestrator.tracking.mlflow import MlflowSink

EXPERIMENT = {
    "experiment_id": "1",
    "name": "irpo",
    "lifecycle_stage": "active",
    "artifact_location": "mlflow-artifacts:/1",
}
RUN = {"info": {"run_id": "abc", "experiment_id": "1", "lifecycle_stage": "active"}, "data": {}}


class Server(BaseHTTPRequestHandler):
    """Knows one experiment, whose runs, none or one, are on endless pages."""

    runs: ClassVar[list[object]]
    tokens: ClassVar[Iterator[object]]

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answers: dict[str, object] = {"get-by-name": {"experiment": EXPERIMENT}}
        answers["search"] = {"runs": self.runs, "next_page_token": str(next(self.tokens))}
        body = json.dumps(answers[self.path.partition("?")[0].rpartition("/")[2]]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(params=[[], [RUN]], ids=["empty", "full"])
def runs(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture(params=["repeat", "count"])
def address(request: pytest.FixtureRequest, runs: list[object]) -> Iterator[str]:
    tokens = getattr(itertools, request.param)(1)
    handler = type("Handler", (Server,), {"runs": runs, "tokens": tokens})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_pages_without_an_end_are_no_endless_loop(address: str, tmp_path: Path) -> None:
    with pytest.raises(RatchetError, match="one page of runs again and again"):
        MlflowSink(address, None, "irpo", "run-1", tmp_path)
