"""Archives in stores that fsspec reaches, with stores of the tests' own in the network's place."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import infer_storage_options

from orchestrator.archive.opening import open_store
from orchestrator.archive.store import Unreachable
from orchestrator.errors import BadInput


class OnAHost(LocalFileSystem):  # type: ignore[misc]
    """As fsspec has SFTP: the address holds the host, which the client is made with, and the path on it."""

    protocol = "onahost"

    def __init__(self, host: str, port: int = 22, **options: Any) -> None:
        assert (host, port) == ("files.example", 2222)
        super().__init__(**options)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(infer_storage_options(path)["path"])

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
        return {key: value for key, value in infer_storage_options(path).items() if key in ("host", "port")}


def test_a_store_gets_the_host_that_its_address_names(tmp_path: Path) -> None:
    fsspec.register_implementation("onahost", OnAHost, clobber=True)
    store = open_store(f"onahost://files.example:2222{tmp_path}/archive")
    (tmp_path / "archive").mkdir()
    store.write("archive.json", b"{}")
    assert (tmp_path / "archive/archive.json").read_bytes() == b"{}" == store.read("archive.json", 0, 2)
    told = store.told("archive.json")
    assert told and told.size == 2 and store.told("none.json") is None


@pytest.mark.parametrize(("address", "cure"), [("s3s://b/x", r"did you mean s3://\?"), ("nosuch://x", "such as s3://")])
def test_an_address_of_no_known_kind_is_told_by_its_key(address: str, cure: str) -> None:
    with pytest.raises(BadInput, match=rf"^archive: {address}: fsspec knows no addresses .*://; {cure}"):
        open_store(address)


def test_a_host_that_does_not_answer_is_no_place_without_an_archive() -> None:
    """fsspec says of HTTP that there is no such file."""
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        store = open_store(f"http://127.0.0.1:{taken.getsockname()[1]}/archive")
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1"):
            store.told("archive.json")
