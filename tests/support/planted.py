"""Secrets that are planted in an environment, and looked for in everything that a command leaves or shows."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import threading
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

NAMES = (
    *("OPENAI_API_KEY", "JUDGE_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "WANDB_API_KEY"),
    *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "MLFLOW_FLASK_SERVER_SECRET_KEY", "PGPASSWORD"),
    *("RAY_AUTH_TOKEN", "RAY_REDIS_PASSWORD", "VLLM_API_KEY", "DATABASE_URL", "MY_PRIVATE_THING"),
)


def environment() -> dict[str, str]:
    """A secret of its own for each name; with what an address, a shell, JSON and HTML write otherwise."""
    found = {name: f"planted-{number:02d}/é+='\"&{name[::-1].lower()}" for number, name in enumerate(NAMES)}
    found["JUDGE_KEY"] = "planted-01-key-of-the-judge"  # goes in a header, which takes no such characters
    found["HF_TOKEN"] = "planted-02-token-of-the-hub"  # likewise
    found["RAY_AUTH_TOKEN"] = "planted-0123456789abcdef"  # Ray's own form
    found["DATABASE_URL"] = "postgresql://me:planted-password-of-the-database@host/x"
    return found


def forms(secret: str) -> dict[str, bytes]:
    """A secret as it is, and as programs write it in logs, addresses, databases and headers."""
    raw = secret.encode()
    found = {
        "raw": raw,
        "latin-1": secret.encode("latin-1"),
        "utf-16": secret.encode("utf-16-le"),
        "repr": repr(secret)[1:-1].encode(),
        "json": json.dumps(secret)[1:-1].encode(),
        "address": urllib.parse.quote(secret, safe="").encode(),
        "form": urllib.parse.quote_plus(secret).encode(),
        "hex": raw.hex().encode(),
    }
    for offset in range(3):  # of which the middle is the same, whatever stands before and behind
        whole = base64.b64encode(b"x" * offset + raw)
        found[f"base64 {offset}"] = whole[4 if offset else 0 : -4]
    return found


class Search:
    """Looks for secrets, by what they are called."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._wanted = {(name, form): text for name, value in secrets.items() for form, text in forms(value).items()}
        self.files = self.bytes = 0
        """Looked at so far."""

    def text(self, where: str, content: bytes) -> list[str]:
        """What of the secrets stands in a content, each named with the place."""
        return sorted({f"{where}: {name}, {form}" for (name, form), text in self._wanted.items() if text in content})

    def folder(self, folder: Path, but: Iterable[Path] = ()) -> list[str]:
        """What of them stands in the files of a folder or their names; in columns of Parquet, too. Files of others come
        and go meanwhile."""
        found, left = [], {str(path) for path in but}
        for place, folders, files in os.walk(folder):
            folders[:] = [name for name in folders if f"{place}/{name}" not in left]
            found += self.text(place, "\n".join([*folders, *files]).encode(errors="surrogateescape"))
            for name in files:
                file = Path(place, name)
                if str(file) in left or not file.is_file() or file.is_symlink():
                    continue
                with contextlib.suppress(FileNotFoundError):
                    content = file.read_bytes()
                    self.files, self.bytes = self.files + 1, self.bytes + len(content)
                    found += self.text(str(file), content)
                if name.endswith(".parquet"):
                    with contextlib.suppress(FileNotFoundError, pa.ArrowInvalid):  # gone, or half written
                        found += self.text(str(file), repr(pq.read_table(file).to_pylist()).encode())
        return sorted(found)

    @contextlib.contextmanager
    def command_lines(self, pid: int) -> Iterator[dict[str, list[str]]]:
        """What of them stands meanwhile in the command lines of a process and of all that it starts, which every user
        may list; by command line."""
        seen: dict[str, list[str]] = {}
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.3):
                with contextlib.suppress(psutil.Error):
                    parent = psutil.Process(pid)
                    for each in (parent, *parent.children(recursive=True)):
                        with contextlib.suppress(psutil.Error, OSError):
                            line = Path(f"/proc/{each.pid}/cmdline").read_bytes()
                            seen.setdefault(line.decode(errors="replace"), self.text("command line", line))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield seen
        finally:
            ended.set()
            watcher.join()
