"""The folder of a private Ray: made where nobody else gets in, and taken away again, a killed driver's too.

    ratchet-k3x9q_7a/     0700: Ray opens what lies below to everybody, sockets and logs included
      .lock               held by the driver while it lives, however it ends: whoever gets it may clear the folder
      r/                  Ray's own
      t/                  TMPDIR of the workers

Nobody else can put something into such a folder. Those that earlier versions left behind were open to all, and a
folder of this name may be anybody's: so no link is followed here, and nothing of another user is touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import resource
import select
import shutil
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from orchestrator.errors import BadInput, RatchetError, cut
from orchestrator.files.durable import make_folder
from orchestrator.text.shown import line

RENDEZVOUS = "RATCHET_RENDEZVOUS"  # tells training ranks a folder to find each other in (workers.training.group)
OBJECT_STORE_BYTES = 256 * 2**20  # rows travel in files; only small messages pass through Ray's store
_PREFIX = "ratchet-"
_NAME = re.compile(rf"{_PREFIX}[a-z0-9_]{{8}}")  # as mkdtemp makes them
_LOCK = ".lock"
_TRIES = 10
_SOCKET_BYTES = (104 if sys.platform == "darwin" else 108) - 1  # the system's, for the path of a socket
_SOCKET = f"/{_PREFIX}12345678/r/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
_REMNANT = re.compile(r"session_.+|r|t")  # what Ray's agents make again, late, of a folder that is gone already
_SERVERS = ("gcs_server", "raylet")
_AGENTS = (b"ray::DashboardAgent", b"ray::RuntimeEnvAgent")
_PATIENCE = 5.0  # seconds that a left-over process is given to end by itself
_STORE_ROOM = 2**20  # bytes that the store's file may be larger than the store
_LOG_BYTES = 16 * 2**20
_WORDS_BYTES = 4096
_LOGS_BYTES = 256 * 2**20


def require_short_place() -> Path:
    """The folder for temporary files, in which the sockets of a private Ray have room.

    Raises:
        BadInput: its path is too long, there is none, or no file may be as large as that of Ray's store.
    """
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY and limit < OBJECT_STORE_BYTES + _STORE_ROOM:
        raise BadInput(
            f"a file may have {limit / 2**20:.0f} MiB at most here, and a private Ray makes one of "
            f"{OBJECT_STORE_BYTES >> 20} MiB: let files be larger (`ulimit -f unlimited`), or join a cluster "
            "(cluster.address)"
        )
    try:
        place = tempfile.gettempdir()
    except FileNotFoundError as error:
        raise BadInput(f"TMPDIR: {error.strerror}. Set TMPDIR to a folder that may be written.") from error
    length, most = len(os.fsencode(place)), _SOCKET_BYTES - len(_SOCKET)
    if length > most:
        key = next((k for k in ("TMPDIR", "TEMP", "TMP") if os.environ.get(k)), "TMPDIR")
        raise BadInput(
            f"{key}: {place} has {length} characters, and a private Ray, which puts its sockets there, leaves room for "
            f"{most}. Set TMPDIR to a shorter folder for this command (TMPDIR=/tmp), or join a cluster "
            "(cluster.address)."
        )
    return Path(place)


class PrivateFolder:
    """A new folder of this process, for as long as it lives."""

    def __init__(self, place: Path) -> None:
        """In `place`, which others may write to as well.

        Raises:
            OSError: this process may not.
        """
        for _ in range(_TRIES):
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
            with contextlib.suppress(FileNotFoundError, BlockingIOError):  # somebody cleans up at this very moment
                self._lock = _new_lock(self.path)
                break
        else:
            raise RatchetError(f"{place}: what is made there for a private Ray is removed again and again")
        self.ray, self.temporary = self.path / "r", self.path / "t"
        self.ray.mkdir(mode=0o700)
        self.temporary.mkdir(mode=0o700)

    def keep_logs(self, target: Path) -> None:
        """Copy what the workers have said to a new folder `target`; of a long log the end."""
        _make_way(target)
        left = _LOGS_BYTES
        for log in self._logs():
            with open(os.open(log, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as source:
                status = os.fstat(source.fileno())
                size = min(status.st_size, _LOG_BYTES, left)
                if not stat.S_ISREG(status.st_mode) or not size:
                    continue
                source.seek(status.st_size - size)
                left -= size
                with open(target / log.name, "xb") as file:
                    file.write(source.read(size))

    def last_words(self) -> str:
        """The last line of the first of Ray's own processes that complained, to be added to a message."""
        with contextlib.suppress(OSError):
            for log in sorted(self._logs("", ".err"), key=os.path.getmtime):
                with open(os.open(log, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as source:
                    source.seek(max(os.fstat(source.fileno()).st_size - _WORDS_BYTES, 0))
                    lines = source.read(_WORDS_BYTES).decode(errors="backslashreplace").strip().splitlines()
                if lines:
                    return f" (the last word of its {log.stem}: {cut(line(lines[-1]))})"
        return ""

    def _logs(self, start: str = "worker-", end: str = "") -> Iterator[Path]:
        for session in os.scandir(self.ray):
            logs = Path(session.path) / "logs"
            if session.name.startswith("session_2") and session.is_dir(follow_symlinks=False) and not logs.is_symlink():
                found = [log for log in os.scandir(logs) if log.name.startswith(start) and log.name.endswith(end)]
                yield from sorted(Path(log.path) for log in found if log.is_file(follow_symlinks=False))

    def remove(self) -> None:
        """Take everything away, once Ray has ended. Harmless when repeated."""
        if self._lock is not None:
            with contextlib.suppress(OSError), _opened(self.path) as folder:
                _end_processes(self.path)
                _clear(self.path, folder)
            os.close(self._lock)
            self._lock = None

    _lock: int | None = None


def remove_leftovers(place: Path) -> None:
    """Clear the folders in `place` of this user's drivers that were killed, and end what they have left running."""
    found: list[str] = []
    with contextlib.suppress(OSError):  # a place that may be written, and not looked into
        found = [name for name in os.listdir(place) if name.startswith(_PREFIX)]
    for name in found:
        with contextlib.suppress(OSError), _opened(place / name) as folder:
            _remove_leftover(place / name, folder)


def _remove_leftover(path: Path, folder: int) -> None:
    if os.fstat(folder).st_uid != os.geteuid():
        return
    names = os.listdir(folder)
    if not names and _NAME.fullmatch(path.name):
        os.rmdir(path)  # one that was killed at its very start, or at its very end; a living one makes another
    elif _LOCK not in names and _NAME.fullmatch(path.name) and all(map(_REMNANT.fullmatch, names)):
        _end_processes(path)
        _clear(path, folder)
    elif (lock := _taken_lock(folder)) is not None:
        try:
            _end_processes(path)
            _clear(path, folder)
        finally:
            os.close(lock)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A folder's descriptor, so that what is done in it stays in it; OSError where it is a link."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _new_lock(folder: Path) -> int:
    """The lock of a new folder, held.

    Raises:
        FileNotFoundError, BlockingIOError: whoever cleans up has taken the folder for a left-over.
    """
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(lock).st_nlink:
            raise FileNotFoundError(folder / _LOCK)
        os.pwrite(lock, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode(), 0)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _taken_lock(folder: int) -> int | None:
    """The lock of a folder whose driver is gone, held; None where it lives, is another host's, or there is no lock."""
    try:
        lock = os.open(_LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return None
    try:
        status = os.fstat(lock)
        if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # On a shared file system the locks of another host may not show here.
            if _host(os.pread(lock, 4096, 0)) in (None, socket.gethostname()):
                return lock
    except OSError:
        pass
    os.close(lock)
    return None


def _host(content: bytes) -> str | None:
    """Where a lock's driver ran; None for one that does not say, as those of earlier versions."""
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return said["host"] if isinstance(said, dict) and isinstance(said.get("host"), str) else None


def _clear(path: Path, folder: int) -> None:
    """Remove an opened folder. The lock goes last: what cannot be removed yet is found again by the next start."""
    if not shutil.rmtree.avoids_symlink_attacks:
        return  # no system that Ray runs on
    for name in os.listdir(folder):
        if name != _LOCK:
            with contextlib.suppress(OSError):
                if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                    shutil.rmtree(name, ignore_errors=True, dir_fd=folder)
                else:
                    os.unlink(name, dir_fd=folder)
    if set(os.listdir(folder)) <= {_LOCK}:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_LOCK, dir_fd=folder)
        os.rmdir(path)


def _make_way(target: Path) -> None:
    """A new folder in place of whatever stands there; where a link stands, that alone goes."""
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target, ignore_errors=True)
    else:
        target.unlink(missing_ok=True)
    make_folder(target, target.parents[1])  # the run's


def _end_processes(folder: Path) -> None:
    """End what is left of a Ray below `folder`, whose driver is gone. Its servers end with their driver, unless that
    was killed in the moment in which Ray forks them; its agents a minute later. Linux only."""
    if sys.platform != "linux":
        return
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            process = os.pidfd_open(int(pid))  # names this process, whatever becomes of its number
            try:
                if _is_below(Path("/proc") / pid, folder):
                    signal.pidfd_send_signal(process, signal.SIGTERM)
                    if not select.select([process], [], [], _PATIENCE)[0]:
                        signal.pidfd_send_signal(process, signal.SIGKILL)
                        select.select([process], [], [], _PATIENCE)
            finally:
                os.close(process)


def _is_below(process: Path, folder: Path) -> bool:
    """Whether a process, of /proc, is this user's and a server of Ray's that was told a place below `folder`, or an
    agent of Ray's that holds a file there: one that only looks at the logs is neither."""
    if process.stat().st_uid != os.geteuid():
        return False
    words = (process / "cmdline").read_bytes().split(b"\0")
    if os.path.basename(os.readlink(process / "exe")) in _SERVERS:
        return any(word.partition(b"=")[2].startswith(os.fsencode(f"{folder}/")) for word in words)
    if words[0].rstrip() not in _AGENTS:
        return False
    return any(os.readlink(file.path).startswith(f"{folder}/") for file in os.scandir(process / "fd"))


def private_environment(folder: PrivateFolder, also: Mapping[str, str]) -> dict[str, str]:
    """What the processes of a private Ray get: files that they leave behind go with the folder, what they listen on is
    reached from this host alone, and Pythons that they start take no module from the current folder. What a user has
    set himself stays, but for the place of such files."""
    found = {"PYTHONSAFEPATH": "1", **also}
    if loopback := [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]:
        found |= {"GLOO_SOCKET_IFNAME": loopback[0], "NCCL_SOCKET_IFNAME": loopback[0]}
    found |= compiled_environment()
    temporary = str(folder.temporary)
    ours = {"TMPDIR": temporary, RENDEZVOUS: temporary, "PYTHONIOENCODING": "utf-8"}  # what they print is read as that
    return found | {k: os.environ[k] for k in found if k in os.environ} | ours


def compiled_environment() -> dict[str, str]:
    """Where torch keeps what it has compiled, which serves the next run, too: code that is loaded, so a folder of this
    user's, closed to others. One that others could write to is not used."""
    with contextlib.suppress(RuntimeError, OSError):  # no home, or none that can be written
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ratchet"
        compiled = cache / "torchinductor"
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        compiled.mkdir(mode=0o700, exist_ok=True)
        if all(_is_own(folder) for folder in (cache, compiled)):
            compiled.chmod(0o700)  # what torch makes below it has the rights of the umask
            return {"TORCHINDUCTOR_CACHE_DIR": str(compiled)}
    return {}


def _is_own(folder: Path) -> bool:
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022


@contextlib.contextmanager
def environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Changes to this process's environment, which what it starts inherits, for a while."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
