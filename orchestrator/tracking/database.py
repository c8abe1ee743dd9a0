"""MLflow's SQLite file and the folder of files beside it: made whole or not at all, and followed once both were moved
or copied.

MLflow makes a new database in some thirty steps, and cannot go on with one that was left in the middle of them. So it
is made under another name.

An experiment and every run in it say as an absolute address where their files are, and MLflow has no call to change
that: what is logged from a new place would go to the old one, which may be another run's. So the addresses are changed
in the database itself.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlparse

from orchestrator.files import unfinished
from orchestrator.files.durable import sync
from orchestrator.files.inside import remove

ARTIFACTS = "mlartifacts"
_SQLITE, _SQLITE_ESCAPED = "sqlite:///", "sqlite+pysqlite:///"

# Where addresses of files stand, and tags of ours that hold folders of runs beside them.
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_FOLDERS = (("tags", "value"), ("model_version_tags", "value"))
_OUR_TAGS = ("ratchet.folder", "ratchet.checkpoint")
_MAKING = threading.Lock()


def sqlite_address(file: Path) -> str:
    """The tracking address of a database: where its path has a `?`, which would end it, or a `%`, these are escaped.

    MLflow makes the folder that stands in an address, by its escaped name, unless the address names the driver.
    """
    escaped = str(file).replace("%", "%25").replace("?", "%3F")
    return (_SQLITE if escaped == str(file) else _SQLITE_ESCAPED) + escaped


def sqlite_file(uri: str) -> Path | None:
    """The database that a tracking address names; None where it is none, or one that is not in a file."""
    prefix = next((known for known in (_SQLITE, _SQLITE_ESCAPED) if uri.startswith(known)), None)
    path = unquote(uri.removeprefix(prefix).partition("?")[0]) if prefix else ""
    return Path(path).absolute() if path and path != ":memory:" and not path.startswith("file:") else None


def make(uri: str, touch: Callable[[str], object]) -> None:
    """Make the SQLite store of an address where there is none. `touch` has MLflow use an address, by which it makes
    the database there.

    Raises:
        whatever `touch` raises.
    """
    database = sqlite_file(uri)
    if database is None or not database.parent.is_dir():
        return
    with _MAKING:
        unfinished.tidy(database.parent, "mlflow")  # one that was cut off may have come as far as the name
        if not database.exists():
            _make(database, touch)


def _make(database: Path, touch: Callable[[str], object]) -> None:
    folder = unfinished.hidden(database.parent, "mlflow")
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        touch(sqlite_address(folder / "new.db"))
        whole = folder / "whole.db"  # a copy, since MLflow keeps the other one open
        new = contextlib.closing(sqlite3.connect(folder / "new.db"))
        with new as made, contextlib.closing(sqlite3.connect(whole)) as copy:
            made.backup(copy)
        sync(whole)
        try:
            os.link(whole, database)
        except FileExistsError:  # another driver was faster
            pass
        except OSError:  # no links on this disk
            if not database.exists():
                os.rename(whole, database)
        sync(database.parent)
    finally:
        remove(database.parent, folder)


def cure(uri: str) -> str | None:
    """What helps where MLflow cannot use a SQLite file that no run is tracked in: it was left half made, or is none."""
    database = sqlite_file(uri)
    if database is None or not database.is_file():
        return None
    try:
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            if "runs" in tables and connection.execute("SELECT 1 FROM runs").fetchone():
                return None
    except sqlite3.OperationalError:  # locked, or closed to us
        return None
    except sqlite3.DatabaseError:
        pass
    return (
        f"{database} holds no run and is not whole, or no database: move it away, and the next start of a run "
        "(`ratchet resume RUN`) makes a new one and sends everything"
    )


def artifact_folder(uri: str, runs: Path) -> str | None:
    """Where a new experiment keeps files: beside a SQLite file; None leaves it to the server."""
    if uri.startswith(("http://", "https://", "databricks")):
        return None
    database = sqlite_file(uri)
    folder = database.parent if database else runs.absolute()
    return (folder / ARTIFACTS).as_uri()


def follow(uri: str) -> bool:
    """Have a SQLite store that was moved or copied say where its files are now: beside it, as they were when it was
    made. Returns whether it said otherwise; the database as it was then stands beside it, too (`mlflow.db.before`).

    An experiment that somebody keeps elsewhere is left alone: its folder is there, and neither its runs' files nor a
    database that knows it have come from there.

    Raises:
        sqlite3.Error: the database cannot be changed now.
    """
    database = sqlite_file(uri)
    if database is None or not database.is_file():
        return False
    here, moved = database.parent, False
    with contextlib.closing(sqlite3.connect(database, timeout=10.0)) as connection, connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
            return False
        said = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        for (location,) in said:
            before = _folder_of(location)
            if before is not None and not _same(before, here) and _has_come(connection, database, location, before):
                if not moved:
                    with contextlib.closing(sqlite3.connect(f"{database}.before")) as copy:
                        connection.backup(copy)
                _change(connection, _ADDRESSES, (before / ARTIFACTS).as_uri(), (here / ARTIFACTS).as_uri(), "")
                names = ", ".join(f"'{name}'" for name in _OUR_TAGS)
                _change(connection, _FOLDERS, str(before), str(here), f" AND key IN ({names})")
                moved = True
    return moved


def _has_come(connection: sqlite3.Connection, database: Path, location: str, before: Path) -> bool:
    """Whether the files of a location were in another folder, `before`, and are beside the database now."""
    if not (before / ARTIFACTS).is_dir():
        return True
    addresses = connection.execute(
        "SELECT artifact_uri FROM runs WHERE substr(artifact_uri, 1, ?) = ?", (len(location) + 1, f"{location}/")
    )
    if any((database.parent / ARTIFACTS / unquote(uri[len(location) + 1 :])).exists() for (uri,) in addresses):
        return True
    question = "SELECT experiment_id, creation_time FROM experiments WHERE artifact_location = ?"
    try:  # a copy without its files: the database that it was made from is there
        with contextlib.closing(sqlite3.connect(f"{(before / database.name).as_uri()}?mode=ro", uri=True)) as other:
            theirs = set(other.execute(question, (location,)))
    except sqlite3.Error:
        return False
    return not theirs.isdisjoint(connection.execute(question, (location,)).fetchall())


def _folder_of(location: str | None) -> Path | None:
    """The folder that the database was in when it was given an address like those that we give."""
    parsed = urlparse(location or "")
    path = Path(unquote(parsed.path))
    return path.parent if parsed.scheme == "file" and path.name == ARTIFACTS else None


def _same(one: Path, other: Path) -> bool:
    """Whether two paths are one folder: it may be reached through a link, too."""
    try:
        return one == other or os.path.samefile(one, other)
    except OSError:
        return False


def _change(
    connection: sqlite3.Connection, columns: tuple[tuple[str, str], ...], old: str, new: str, only: str
) -> None:
    """Put `new` where a text in one of the columns begins with `old`, as a whole name."""
    for table, column in columns:
        connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
            f"WHERE ({column} = ? OR substr({column}, 1, ?) = ?){only}",
            (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
        )
